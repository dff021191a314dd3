"""SIGHUP ends all four tools as SIGTERM does; under nohup it does nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol, Unpack

import pytest

from rondo_tools import stream
from rondo_tools.catalog import COUNTER, Series
from rondo_tools.stream import Decoder, End, Header, Tick
from tests.support.fixtures import PIPES, ProcessOptions
from tests.support.streams import encoded

ROOT = Path(__file__).resolve().parent.parent
HUP, TERM = signal.SIGHUP, signal.SIGTERM
WAIT_S = 60
NOBODY = "http://127.0.0.1:1/api/v1/write"  # no process listens there

Process = subprocess.Popen[bytes]


class Start(Protocol):
    def __call__(
        self, *command: str | Path, nohup: bool = False, **options: Unpack[ProcessOptions]
    ) -> Process: ...


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a tool, under nohup if asked; it always ends with the test."""
    running: list[Process] = []

    def begin(*command: str | Path, nohup: bool = False, **options: Unpack[ProcessOptions]) -> Process:
        argv = [*["nohup"] * nohup, sys.executable, ROOT / "bin" / command[0], *command[1:]]
        settings: ProcessOptions = {**PIPES, **options}
        process = subprocess.Popen(argv, **settings)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def line_with(pipe: IO[bytes] | None, what: str) -> str:
    """Read up to the line that holds `what`."""
    assert pipe is not None
    for line in pipe:
        if what.encode() in line:
            return line.decode()
    raise AssertionError(f"it ended without {what!r}")


def piece(count: int, at: int = 0, *, begin_ms: int, head: bool = True) -> bytes:
    """Ticks number `at` to `count` of a session that began at `begin_ms`, and runs however slow we are."""
    series = (Series("requests_total", (), COUNTER, "", ""),)
    events = [Header("vm-1", begin_ms - 1, (), 600_000, series)] if head else []
    ticks = [Tick(begin_ms + 1000 * i, bytes(8)) for i in range(at, count)]
    return encoded(*events, *ticks)


def just_now_ms() -> int:
    return time.time_ns() // 1_000_000 // 1000 * 1000 - 5000


# --- rondo-vmm -----------------------------------------------------------------------------------


def test_under_nohup_the_vm_outlives_a_hang_up(start: Start) -> None:
    process = start("rondo-vmm", "--duration", "1h", "--interval", "50ms", "--serial", "none", nohup=True)
    assert process.stdout is not None
    decoder = Decoder()

    def more(count: int) -> list[stream.Event]:
        assert process.stdout is not None
        events: list[stream.Event] = []
        while len(events) < count:
            data = os.read(process.stdout.fileno(), 4096)
            assert data, "it ended"
            events += decoder.feed(data)
        return events

    more(2)
    process.send_signal(HUP)
    assert not any(isinstance(event, End) for event in more(3))
    process.send_signal(TERM)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    *_, last = decoder.feed(out)
    assert isinstance(last, End)
    assert last.reason == "signal"


def test_a_terminal_that_closes_ends_the_vm_and_nothing_is_lost(start: Start, tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and standard error is gone; a shell's second SIGHUP gives up nothing."""
    ours, its = pty.openpty()
    path = tmp_path / "stream"
    os.mkfifo(path)

    def take_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    terminal: ProcessOptions = {"stdin": its, "stdout": its, "stderr": its, "preexec_fn": take_the_terminal}
    process = start("rondo-vmm", "--duration", "1h", "--output", path, **terminal)
    os.close(its)
    log = b""
    while b"rondo guest" not in log:
        log += os.read(ours, 4096)
    os.close(ours)
    process.send_signal(HUP)
    data = path.read_bytes()  # it is read after the signal: the VM keeps its data for the reader
    process.wait(WAIT_S)
    decoder = Decoder()
    _, *ticks, end = decoder.feed(data)
    assert isinstance(end, End)
    assert end.reason == "signal"
    assert isinstance(ticks[-1], Tick)
    assert ticks[-1].t_ms == end.t_ms


# --- rondo-store ---------------------------------------------------------------------------------


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Callable[..., Process]:
    def begin(*, nohup: bool = False) -> Process:
        process = start("rondo-store", tmp_path / "s", "--listen", f"unix:{tmp_path}/sock", nohup=nohup)
        line_with(process.stderr, "listening on")
        return process

    return begin


def deliver(start: Start, tmp_path: Path, instance: str) -> None:
    """A whole session of a VM, acknowledged."""
    done = start(
        "rondo-vmm", "--duration", "100ms", "--interval", "20ms", "--instance", instance, "--serial", "none",
        "--output", f"unix:{tmp_path}/sock",
    )  # fmt: skip
    _, err = done.communicate(timeout=WAIT_S)
    assert done.returncode == 0, err


def instances(start: Start, tmp_path: Path) -> str:
    listing = start("rondo-query", tmp_path / "s", "list")
    out, err = listing.communicate(timeout=WAIT_S)
    assert listing.returncode == 0, err
    return out.decode()


def test_a_hang_up_ends_the_server_with_all_that_it_acknowledged(
    start: Start, serve: Callable[..., Process], tmp_path: Path
) -> None:
    process = serve()
    deliver(start, tmp_path, "first")
    process.send_signal(HUP)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert b"ticks stored" in err
    assert not (tmp_path / "sock").exists()
    listing = instances(start, tmp_path)
    assert "first" in listing
    assert "poweroff" in listing


def test_under_nohup_the_server_goes_on(start: Start, serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve(nohup=True)
    process.send_signal(HUP)
    deliver(start, tmp_path, "first")
    process.send_signal(TERM)
    assert process.wait(WAIT_S) == 0
    assert "first" in instances(start, tmp_path)


# --- rondo-push ----------------------------------------------------------------------------------


def push(start: Start, tmp_path: Path, *, nohup: bool = False) -> Process:
    """A daemon after a failed first push: no process listens at its endpoint."""
    feed = start("rondo-store", tmp_path / "s")
    feed.communicate(piece(3, begin_ms=just_now_ms()), timeout=WAIT_S)
    assert feed.returncode == 0
    process = start(
        "rondo-push", tmp_path / "s", "--remote-write", NOBODY, "--interval", "100ms", nohup=nohup
    )
    line_with(process.stderr, "not delivered for now")
    return process


@pytest.mark.parametrize("number", [TERM, HUP])
def test_a_signal_ends_the_push_in_good_order(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    process = push(start, tmp_path)
    for _ in range(1 if number == TERM else 3):
        process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    assert b"Traceback" not in err


def test_under_nohup_the_push_goes_on(start: Start, tmp_path: Path) -> None:
    process = push(start, tmp_path, nohup=True)
    process.send_signal(HUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(TERM)
    assert process.wait(WAIT_S) == 0


# --- rondo-query ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nohup", [False, True])
def test_tail_ends_by_a_hang_up_but_not_under_nohup(start: Start, tmp_path: Path, nohup: bool) -> None:
    feed = start("rondo-store", tmp_path / "s")
    assert feed.stdin is not None
    assert feed.stdout is not None
    begin_ms = just_now_ms()
    feed.stdin.write(piece(3, begin_ms=begin_ms))
    feed.stdin.flush()
    feed.stdout.readline()
    process = start("rondo-query", tmp_path / "s", "tail", "requests_total", "--unix", nohup=nohup)
    line_with(process.stdout, f"{begin_ms // 1000 + 2}")
    process.send_signal(HUP)
    if nohup:
        feed.stdin.write(piece(4, 3, begin_ms=begin_ms, head=False))
        feed.stdin.flush()
        line_with(process.stdout, f"{begin_ms // 1000 + 3}")
        process.send_signal(TERM)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
