"""Linux guests in the laboratory (docs/lab.md): all of these tests are long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from devtools import lab
from devtools.guest.linux import PACKAGE, build, packaged
from devtools.lab_root import base_archive
from devtools.programs import fetch
from tests.support.needs import LAB_S, must_have

ROOT = Path(__file__).resolve().parent.parent.parent

Run = Callable[..., lab.Result]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.timeout(2 * LAB_S))


@pytest.fixture(scope="session")
def in_lab() -> Run:
    """`lab.run`, if there is a laboratory."""
    try:
        fetch("qemu-system-x86_64")
        base_archive()
    except LookupError as exc:
        must_have(f"no laboratory: {exc}")
    return lab.run


@pytest.fixture(scope="session")
def guest() -> Path:
    """The folder of the Linux guest, which is build/guest in the laboratory, too."""
    try:
        kernel, modules = packaged(PACKAGE)
        build(kernel, modules, ROOT / "build" / "guest")
    except LookupError as exc:
        must_have(f"no Linux guest: {exc}")
    return ROOT / "build" / "guest"
