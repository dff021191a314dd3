"""Fixtures for all: real programs, and streams and stores made of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fetch import PROGRAMS, fetch
from hypothesis import HealthCheck, settings
from needs import must_have
from prometheus import Prometheus

ROOT = Path(__file__).resolve().parent.parent

# A property holds or does not; how fast the machine is that looks is no part of it.
settings.register_profile("rondo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rondo")


@pytest.fixture(scope="session")
def program() -> Callable[[str], Path]:
    """Path of a real program, by name: fetched, or found on PATH."""

    def find(name: str) -> Path:
        if name not in PROGRAMS:
            found = shutil.which(name)
            if found is None:
                must_have(f"{name} is not on PATH")
            return Path(str(found))
        try:
            return fetch(name)
        except LookupError as exc:
            must_have(str(exc))
            raise

    return find


@pytest.fixture
def prometheus(program: Callable[[str], Path]) -> Iterator[Prometheus]:
    """A real Prometheus, empty, on loopback."""
    with Prometheus(program("prometheus")) as running:
        yield running


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run one of the four commands to its end: ``run("rondo-query", "--help")``."""

    def start(*command: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
        options = {"capture_output": True, "timeout": 60, "stdin": subprocess.DEVNULL} | options
        return subprocess.run([sys.executable, ROOT / "bin" / command[0], *command[1:]], **options)  # type: ignore[call-overload]

    return start
