"""The lines: newest per session, whole, and never a reason to wait."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time
from collections.abc import Iterator

import pytest

from rondo_tools.store.lines import Lines

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe of the smallest size, one page; whatever of it is open at the end is closed."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(ends[0], False)
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError as exc:
            assert exc.errno == errno.EBADF


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def test_a_line_for_each_session_that_moved(pipe: Pipe) -> None:
    lines = Lines(pipe[1])
    lines.update({"a/1": 5})
    assert read(pipe[0]) == b"a/1\t5\n"
    lines.update({"a/1": 6, "b/2": 1})
    assert sorted(read(pipe[0]).splitlines()) == [b"a/1\t6", b"b/2\t1"]
    lines.update({})
    assert read(pipe[0]) == b""


def test_a_folder_whose_name_is_not_unicode(pipe: Pipe) -> None:
    Lines(pipe[1]).update({os.fsdecode(b"st\xffre/a"): 5})
    assert read(pipe[0]) == b"st\xffre/a\t5\n"


def test_a_reader_that_does_not_read_holds_nothing_up_and_gets_the_newest_in_the_end(pipe: Pipe) -> None:
    lines = Lines(pipe[1])
    for t_ms in range(20_000):  # some 400 kB of lines, were each one kept
        lines.update({f"session/{t_ms % 7}": t_ms, "same": t_ms})
    first = read(pipe[0])
    assert len(first) <= 4096
    newest = {b"same": 19_999} | {f"session/{t % 7}".encode(): t for t in range(19_993, 20_000)}
    rest = b""
    while not all(b"%b\t%d\n" % one in first + rest for one in newest.items()):
        lines.drain(0.05)
        rest += read(pipe[0])
    assert len(rest) < 5000
    told: dict[bytes, int] = {}
    for line in (first + rest).splitlines():  # which are whole
        path, t_ms_text = line.split(b"\t")
        assert int(t_ms_text) > told.get(path, -1)  # a session's lines ascend
        told[path] = int(t_ms_text)
    assert told == newest


def test_lines_longer_than_a_pipe_takes_at_once(pipe: Pipe) -> None:
    lines, long = Lines(pipe[1]), "x" * 10_000
    lines.update({long: 1})
    got = read(pipe[0])
    for _ in range(3):
        lines.update({})
        got += read(pipe[0])
    assert got == f"{long}\t1\n".encode()


def test_the_reader_leaves(pipe: Pipe) -> None:
    lines = Lines(pipe[1])
    os.close(pipe[0])
    for t_ms in range(5):
        lines.update({"a": t_ms})
    lines.drain(60)


def test_the_reader_leaves_while_lines_wait(pipe: Pipe) -> None:
    lines = Lines(pipe[1])
    lines.update({f"{i}" * 100: i for i in range(100)})
    os.close(pipe[0])
    lines.drain(60)
    lines.update({"a": 1})


def test_nobody_there_from_the_start() -> None:
    lines = Lines(-1)
    lines.update({"a": 1})
    lines.drain(0)


def test_a_standard_output_that_fails_only_ends_the_lines() -> None:
    """Such as a file on a full disk."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        lines = Lines(fd)
        lines.update({"a": 1})
        lines.update({"a": 2})
        lines.drain(60)
    finally:
        os.close(fd)


def test_draining_ends_in_time(pipe: Pipe) -> None:
    lines = Lines(pipe[1])
    lines.update({"x" * 9000: 1})
    lines.drain(0.01)  # would not come back if it waited for the reader
    assert len(read(pipe[0])) == 4096


def test_a_reader_that_dawdles_is_not_waited_for_longer(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a page each time, a little before the time is up."""
    now = 1000.0

    class Dawdling:
        def register(self, fd: int, events: int) -> None:
            pass

        def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
            nonlocal now
            now += timeout_ms * 0.9 / 1000
            read(pipe[0])
            return [(pipe[1], select.POLLOUT)] if timeout_ms > 1 else []

    monkeypatch.setattr(select, "poll", Dawdling)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = Lines(pipe[1])
    lines.update({f"{i}" * 100: i for i in range(1000)})
    lines.drain(5)
    assert 1004 < now <= 1005
