"""Fixtures for all: real programs, and streams and stores made of them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from devtools.programs import NEWER, PROGRAMS, TOOLS, fetch, package_version
from devtools.receivers.prometheus import Prometheus
from tests.support.commands import Commands
from tests.support.fixtures import Run
from tests.support.needs import must_have
from tests.support.quick import Guard, is_quick

ROOT = Path(__file__).resolve().parent.parent

# A property holds or does not; how fast the machine is that looks is no part of it.
settings.register_profile("rondo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("rondo"), max_examples=20)

GUARD = Guard()

# A file system in memory, where a file is replaced and synchronized at no cost, if it is there and has room.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30


def has_memory() -> bool:
    if not os.access(MEMORY, os.W_OK):
        return False
    there = os.statvfs(MEMORY)
    return there.f_bavail * there.f_frsize >= MEMORY_BYTES and not there.f_flag & os.ST_NOEXEC


def pytest_configure(config: pytest.Config) -> None:
    # The long tests have the disk: what they write may be too much for memory.
    if config.option.markexpr != "long" and "TMPDIR" not in os.environ and has_memory():
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # it may have been worked out before
    for name in ("COLUMNS", "LINES"):  # the terminal of whoever runs the tests is no part of them
        os.environ.pop(name, None)
    settings.load_profile("quick" if config.option.markexpr == "quick" else "rondo")
    # A job in the background of a shell ignores SIGINT, and so would all processes that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # nohup ignores SIGHUP. Processes get it as it is by default where it is handled here, and we live on.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_quick(item):
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The guard watches a quick test and its fixtures, from before the first to after the last."""
    GUARD.seen.clear()
    GUARD.watching = item.get_closest_marker("quick") is not None
    try:
        return (yield)
    finally:
        GUARD.watching = False


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    GUARD.check()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Newer suites move, so a run says which versions there were."""
    there = [name for name in NEWER if (TOOLS / "bin" / name).exists()]
    if "not long" not in terminalreporter.config.option.markexpr:
        for name in there:
            terminalreporter.write_line(f"{name}: {package_version(name)}")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up logging for all of it: take that back."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # and none of pytest's
            root.removeHandler(handler)


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


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Run one of the commands to its end: ``run("rondo-query", "--help")``."""
    with Commands() as commands:
        yield commands.run
