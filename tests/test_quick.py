"""The rule of the quick tier, and its guard."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.quick import Guard, Name, starts_something

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("path", "name", "starts"),
    [
        ("support/store/store_host.py", "data", False),
        ("support/store/store_host.py", "started", True),
        ("support/store/store_host.py", "deliver", True),  # through connected, in the same file
        ("store/test_store_time.py", "test_the_first_millisecond_is_one", False),
        ("store/test_store_crash.py", "test_killed_again_and_again_the_store_comes_out_the_same", True),
        ("support/push/receivers.py", "fill", False),
        ("support/push/raw_server.py", "RawServer", True),
        ("push/test_push_http.py", "test_an_unknown_name_is_clear", True),  # by a Transport
        ("conftest.py", "prometheus", True),  # through the class, in a file of devtools
    ],
)
def test_tests_that_start_something_are_found(path: str, name: str, starts: bool) -> None:
    assert starts_something(Name(TESTS / path, name)) is starts


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard()
    guard.watching = True
    yield guard
    guard.watching = False


def listen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "--version"]),
        lambda: os.system("true"),
        lambda: os.open("/dev/kvm", os.O_RDWR),
        listen,
    ],
    ids=["a process", "a shell", "a VM", "a server"],
)
def test_the_guard_fails_a_test_that_starts_something(guard: Guard, start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="a quick test must start nothing"):
        start()
    with pytest.raises(pytest.fail.Exception):
        guard.check()  # also if the code under test swallowed the first


def test_the_guard_lets_files_be(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    left, right = socket.socketpair()
    left.close()
    right.close()
    guard.check()
