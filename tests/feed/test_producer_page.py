"""The unchanged scripts of docs/producer.md, run if their language is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "producer.md").read_text()


def script(language: str) -> str:
    """The one script of a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (one,) = found
    return one


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with the commands of this checkout, for a PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("rondo-feed", "rondo-store"):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "bin" / name} "$@"\n')
        command.chmod(0o755)
    return folder


def in_shell(command: str, commands: Path, folder: Path) -> None:
    subprocess.run(
        ["sh", "-c", command],
        check=True,
        cwd=folder,
        env=os.environ | {"PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_S,
    )


def jobs_in(store: Path) -> list[float]:
    """The values of the one counter, without repetitions."""
    (session,) = Store(store).sessions()
    assert session.instance == "worker-1"
    assert session.end is not None
    assert [(one.name, one.kind) for one in session.header.series] == [("jobs_total", "counter")]
    values = session.rows().values[:, 0].tolist()
    return [value for place, value in enumerate(values) if values[place - 1 : place] != [value]]


def go(folder: Path) -> str:
    (folder / "worker.go").write_text(script("go"))
    subprocess.run(
        ["go", "build", "worker.go"],
        check=True,
        cwd=folder,
        env=os.environ | {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "HOME": str(folder)},
        timeout=PATIENCE_S,
    )
    return "./worker"


def rust(folder: Path) -> str:
    (folder / "worker.rs").write_text(script("rust"))
    subprocess.run(["rustc", "--edition", "2021", "worker.rs"], check=True, cwd=folder, timeout=PATIENCE_S)
    return "./worker"


def python(folder: Path) -> str:
    (folder / "worker.py").write_text(script("python"))
    return f"{sys.executable} worker.py"


def test_the_shell_script_counts(commands: Path, tmp_path: Path) -> None:
    in_shell(script("sh"), commands, tmp_path)
    assert jobs_in(tmp_path / "vmm_metrics") == [10, 20, 30]


VERSION = {sys.executable: "--version", "go": "version", "rustc": "--version"}


@pytest.mark.parametrize(("build", "needs"), [(python, sys.executable), (go, "go"), (rust, "rustc")])
def test_a_producer_without_rondo_feed_counts(
    build: Callable[[Path], str], needs: str, commands: Path, tmp_path: Path
) -> None:
    # It needs a language that is not part of rondo: skip the test without it.
    if shutil.which(needs) is None or subprocess.run([needs, VERSION[needs]], capture_output=True).returncode:
        pytest.skip(f"{needs} is not there, or does not run")
    in_shell(f"{build(tmp_path)} | rondo-store vmm_metrics", commands, tmp_path)
    assert jobs_in(tmp_path / "vmm_metrics") == [10, 20, 30]


@pytest.mark.parametrize("language", ["sh", "python", "go", "rust"])
def test_a_script_is_short(language: str) -> None:
    lines = [line for line in script(language).splitlines() if line.strip()]
    assert len(lines) <= 35


def test_every_language_of_the_page_is_tried() -> None:
    assert {*re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)} == {"sh", "python", "go", "rust", "bash"}
