"""rondo-store as people run it: a real process, real pipes, signals, and disks that fill up."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.reader import Session, Store
from rondo_tools.stream import End, Tick
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S
from tests.support.store import stream_model as model
from tests.support.store.store_host import PROGRAM, data, fill, started, wait_for_log
from tests.support.store.stream_model import T0, ticks
from tests.support.streams import encoded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def only(path: Path) -> Session:
    (session,) = Store(path).sessions()
    return session


def check(path: Path, all_ticks: list[Tick], end: str | None = "lost") -> None:
    session = only(path)
    model.check(session, all_ticks)
    assert (session.end and session.end.reason) == end


def last_line(path: Path) -> str:
    """The last watermark of a follower: the end of the newest journal."""
    layout = Layout(path)
    number = layout.numbers(JOURNALS)[-1]
    return f"{path}\t{number}:{layout.file(JOURNALS, number).stat().st_size}\n"


def wait_for_tick(process: subprocess.Popen[bytes], path: Path, t_ms: int) -> None:
    """Read standard output until the store has a tick."""
    assert process.stdout is not None
    while process.stdout.readline():
        if any(one.last_ms >= t_ms for one in Store(path).sessions()):
            return
    raise AssertionError("it ended without that line")


def send(process: subprocess.Popen[bytes], piece: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(piece)
    process.stdin.flush()


def until_it_sleeps(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has nothing to do. One that spins never sleeps."""
    while " S " not in Path(f"/proc/{process.pid}/stat").read_text():
        assert process.poll() is None


# --- input ---------------------------------------------------------------------------------------


def test_a_whole_stream(path: Path, run: Run, begin_ms: int) -> None:
    done = run("rondo-store", path, stdin=None, input=data(begin_ms, 700))
    assert done.returncode == 0
    assert done.stderr == b"rondo-store: 700 ticks stored, 1 session; 0 late, 0 ahead of the clock\n"
    assert done.stdout.decode().splitlines(keepends=True)[-1] == last_line(path)
    assert only(path).end == End("poweroff", begin_ms + 700_000)
    check(path, ticks(700, begin_ms), "poweroff")
    again = run("rondo-store", path, stdin=None, input=data(begin_ms, 700))
    assert again.returncode == 0
    assert b"0 ticks stored, 1 session; 700 late" in again.stderr
    assert again.stdout == b""
    check(path, ticks(700, begin_ms), "poweroff")


def test_two_sessions_in_one_stream(path: Path, run: Run, begin_ms: int) -> None:
    both = data(begin_ms, 30, end=False) + data(begin_ms, 20, instance="vm-2")
    done = run("rondo-store", path, stdin=None, input=both)
    assert done.returncode == 0
    assert b"50 ticks stored, 2 sessions" in done.stderr
    assert [
        (one.instance, one.end and one.end.reason, one.rows().t_ms.size) for one in Store(path).sessions()
    ] == [
        ("vm-1", "lost", 30),
        ("vm-2", "poweroff", 20),
    ]
    assert done.stdout.decode().splitlines(keepends=True)[-1] == last_line(path)


@pytest.mark.parametrize("junk", [b"\xc1junk", b"\xc0", b"HTTP/1.1 400 Bad Request\r\n"])
def test_a_broken_stream(path: Path, run: Run, begin_ms: int, junk: bytes) -> None:
    good = data(begin_ms, 40, end=False)
    done = run("rondo-store", path, stdin=None, input=good + junk)
    assert done.returncode == 65
    assert f"rondo-store: stream, byte {len(good)}: ".encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.decode().splitlines(keepends=True)[-1] == last_line(path)
    check(path, ticks(40, begin_ms))


def test_a_truncated_stream(path: Path, run: Run, begin_ms: int) -> None:
    good = data(begin_ms, 40, end=False)
    done = run("rondo-store", path, stdin=None, input=good[:-5])
    assert done.returncode == 65
    assert f"byte {len(good) - 140}: the input ends inside a message, 135 bytes".encode() in done.stderr
    check(path, ticks(39, begin_ms))


def test_empty_input_and_a_header_alone(path: Path, run: Run, begin_ms: int) -> None:
    done = run("rondo-store", path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert Store(path).sessions() == []
    done = run("rondo-store", path, stdin=None, input=data(begin_ms, 0, end=False))
    assert (done.returncode, done.stdout) == (0, b"")
    assert Store(path).sessions() == []  # a header alone leaves nothing
    for _ in range(2):
        only_an_end = data(begin_ms, 0)
        assert run("rondo-store", path, stdin=None, input=only_an_end).returncode == 0
        assert (only(path).end, only(path).ticks) == (End("poweroff", begin_ms), 0)


def test_a_terminal_on_standard_input(path: Path, run: Run) -> None:
    master, terminal = pty.openpty()
    try:
        done = run("rondo-store", path, stdin=terminal)
    finally:
        os.close(master)
        os.close(terminal)
    assert done.returncode == 64
    assert b"standard input is a terminal or closed; give it a stream" in done.stderr
    assert not path.exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_closed_descriptors(path: Path, begin_ms: int, closed: str) -> None:
    line = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *PROGRAM, str(path)],
        input=data(begin_ms, 40),
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert b"Traceback" not in done.stderr
    if "<" in closed:
        assert done.returncode == 64
    else:
        assert done.returncode == 0
        check(path, ticks(40, begin_ms), "poweroff")


def test_flags(path: Path, run: Run) -> None:
    assert run("rondo-store", path, "--tiers", "1s:1m,5s:10m").returncode == 0
    done = run("rondo-store", path, "--tiers", "1s:2m,5s:10m")
    assert (done.returncode, b"made with --tiers 1s:1m,5s:10m" in done.stderr) == (65, True)
    done = run("rondo-store", path, "--tiers", "1s:1m,7s:1m")
    assert (done.returncode, b"argument" in done.stderr, b"--tiers" in done.stderr) == (64, True, True)
    assert run("rondo-store").returncode == 64
    help_text = run("rondo-store", "--help").stdout.decode()
    assert "rondo-vmm --duration 45 | rondo-store vmm_metrics" in help_text


@pytest.mark.parametrize("listen", [[], ["--listen", "unix:sock"]])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "argument DIR: the name is empty; name the store's folder, such as vmm_metrics"),
        ("help", "argument DIR: there is no store 'help': see --help, or write ./help to make it"),
    ],
)
def test_an_invalid_name_makes_no_store(
    tmp_path: Path, run: Run, name: str, message: str, listen: list[str]
) -> None:
    done = run("rondo-store", name, *listen, cwd=tmp_path)
    assert done.returncode == 64
    assert done.stderr.startswith(f"rondo-store: {message}\n".encode())
    assert list(tmp_path.iterdir()) == []


def test_a_store_may_be_named_help(tmp_path: Path, run: Run) -> None:
    assert run("rondo-store", "./help", cwd=tmp_path).returncode == 0
    assert run("rondo-store", "help", cwd=tmp_path).returncode == 0  # now it is one
    assert [folder.name for folder in tmp_path.iterdir()] == ["help"]


def test_a_file_in_the_place_of_the_folder(path: Path, run: Run) -> None:
    path.write_text("mine")
    done = run("rondo-store", path)
    assert done.returncode == 69
    assert done.stderr == f"rondo-store: {path}: this is a file; a store is a folder\n".encode()


def test_a_second_writer(path: Path, run: Run) -> None:
    with started(path) as first:
        send(first, data(T0, 0, end=False))
        while not (path / "lock").exists() or not (path / "lock").read_text():
            assert first.poll() is None
        done = run("rondo-store", path)
        assert done.returncode == 75
        assert f"process {first.pid} writes to this store".encode() in done.stderr


def test_the_cost_of_45_seconds(tmp_path: Path, run: Run, begin_ms: int) -> None:
    kilobytes = []
    for vms in (1, 21):
        lives = b"".join(data(begin_ms, 45, instance=f"vm-{number}") for number in range(vms))
        path = tmp_path / str(vms)
        assert run("rondo-store", path, stdin=None, input=lives).returncode == 0
        used = subprocess.run(["du", "-sk", path], capture_output=True, check=True).stdout
        kilobytes.append(int(used.split()[0]))
    assert (kilobytes[1] - kilobytes[0]) / 20 <= 16


# --- standard output -----------------------------------------------------------------------------


def test_watermarks_are_written_while_it_runs(path: Path, begin_ms: int) -> None:
    with started(path) as process:
        send(process, data(begin_ms, 3, end=False))
        wait_for_tick(process, path, begin_ms + 2000)
        send(process, stream.encode(ticks(4, begin_ms)[3]))
        wait_for_tick(process, path, begin_ms + 3000)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        rest = process.stdout.read().decode()
        assert rest.splitlines(keepends=True)[-1] == last_line(path), "the last one comes after the end"
        assert process.wait(PATIENCE_S) == 0


def test_storing_continues_when_the_reader_of_watermarks_ends(path: Path, begin_ms: int) -> None:
    with started(path) as process:
        send(process, data(begin_ms, 3, end=False))
        wait_for_tick(process, path, begin_ms + 2000)
        assert process.stdout is not None
        process.stdout.close()
        send(process, encoded(*ticks(60, begin_ms)[3:]))
        wait_for_log(process, "storing continues")
        until_it_sleeps(process)  # it does not spin on a pipe that nobody reads
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    check(path, ticks(60, begin_ms))


def test_storing_does_not_wait_for_a_stopped_reader(path: Path, begin_ms: int) -> None:
    """Its pipe is full from the first line on: all is stored before it reads a byte."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    try:
        with started(path, stdout=write) as process:
            for at in range(0, 700, 100):
                send(process, data(begin_ms, 100 + at, end=False))
            while not any(one.last_ms == begin_ms + 699_000 for one in Store(path).sessions()):
                assert process.poll() is None
            assert process.stdin is not None
            process.stdin.close()
            os.read(read, 4096)
            assert process.wait(PATIENCE_S) == 0
            assert os.read(read, 4096).decode() == last_line(path)
    finally:
        os.close(read)
        os.close(write)
    check(path, ticks(700, begin_ms))


# --- signals -------------------------------------------------------------------------------------


def test_after_the_first_interrupt_the_input_is_read_to_its_end(path: Path, begin_ms: int) -> None:
    with started(path) as process:
        send(process, data(begin_ms, 10, end=False))
        wait_for_tick(process, path, begin_ms + 9000)
        process.send_signal(signal.SIGINT)
        wait_for_log(process, "reading on to the end of the input; Ctrl-C again to stop now")
        send(
            process,
            encoded(*ticks(50, begin_ms)[10:], End("signal", begin_ms + 50_000)),
        )
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    check(path, ticks(50, begin_ms), "signal")


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGINT, signal.SIGTERM],
        [signal.SIGINT, signal.SIGHUP],
    ],
)
def test_a_stop_signal_stores_everything_that_has_arrived(
    path: Path, begin_ms: int, signals: list[signal.Signals]
) -> None:
    with started(path) as process:
        send(process, data(begin_ms, 10, end=False))
        wait_for_tick(process, path, begin_ms + 9000)
        for number in signals[:-1]:
            process.send_signal(number)
            wait_for_log(process, "Ctrl-C again to stop now")
        # What arrives while it cannot run is in the pipe when the last signal comes.
        process.send_signal(signal.SIGSTOP)
        send(process, encoded(*ticks(50, begin_ms)[10:]) + b"\x92")
        process.send_signal(signals[-1])
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 0  # though the input has not ended
        assert process.stderr is not None
        assert b"50 ticks stored" in process.stderr.read()
    check(path, ticks(50, begin_ms))


def test_a_stop_signal_ends_reading_an_input_that_never_pauses(
    path: Path, tmp_path: Path, begin_ms: int
) -> None:
    """A file is always ready. 60 MB of late ticks take seconds; it stops within a megabyte or so."""
    recorded = tmp_path / "recorded"
    recorded.write_bytes(data(begin_ms, 10, end=False) + stream.encode(Tick(begin_ms, bytes(128))) * 430_000)
    with recorded.open("rb", buffering=0) as file, started(path, stdin=file) as process:
        wait_for_tick(process, path, begin_ms + 9000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) < recorded.stat().st_size  # shared with it
    check(path, ticks(10, begin_ms))


# --- a full disk ---------------------------------------------------------------------------------


def test_it_waits_on_a_full_disk_until_there_is_room(small_disk: Path, begin_ms: int) -> None:
    ballast = fill(small_disk, 65_536)
    path = small_disk / "store"
    with started(path, "--max-bytes", "10M") as process:
        writer = threading.Thread(target=send, args=(process, data(begin_ms, 700)))
        writer.start()
        try:
            wait_for_log(process, "No space left on device; trying again")
            ballast.unlink()
            wait_for_log(process, "writing again")
            writer.join()
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            writer.join()
    check(path, ticks(700, begin_ms), "poweroff")
    assert only(path).end is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_on_a_full_disk(small_disk: Path, begin_ms: int, number: signal.Signals) -> None:
    fill(small_disk, 65_536)
    path = small_disk / "store"
    with started(path) as process:
        send(process, data(begin_ms, 400))
        wait_for_log(process, "trying again")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 75
        assert process.stderr is not None
        text = process.stderr.read()
        assert b"data that is not stored must be sent again" in text
    sessions = Store(path).sessions()
    assert f": {sum(session.ticks for session in sessions)} ticks stored".encode() in text
    for session in sessions:  # what was stored is whole
        model.check(session, ticks(400, begin_ms)[: session.ticks])


def test_a_terminal_gets_no_watermarks(path: Path, begin_ms: int) -> None:
    """Nor is storing held up by one that is stopped with Ctrl-S."""
    master, terminal = pty.openpty()
    os.set_blocking(master, False)
    try:
        termios.tcflow(terminal, termios.TCOOFF)
        with started(path, stdout=terminal) as process:
            send(process, data(begin_ms, 60))
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0
        termios.tcflow(terminal, termios.TCOON)
        with pytest.raises(BlockingIOError):
            os.read(master, 4096)
    finally:
        os.close(master)
        os.close(terminal)
    check(path, ticks(60, begin_ms), "poweroff")
