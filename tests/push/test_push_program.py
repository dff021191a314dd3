"""rondo-push as a program: exit statuses, messages, kill -9, signals, and a real Prometheus."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from devtools.http_server import Reply, http_server
from devtools.receivers.prometheus import Prometheus
from devtools.receivers.receiver import Receiver
from rondo_tools.prom.samples import STALE_NAN
from tests.support.fixtures import Run
from tests.support.push.receivers import expected, fill, header, seconds, ticks

ROOT = Path(__file__).resolve().parents[2]
NOW = int(time.time()) * 1000  # anew for each test


class Start(Protocol):
    def __call__(
        self, *arguments: str | Path, code: str | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]: ...


pytestmark = pytest.mark.usefixtures("now")


def recent(path: Path, count: int = 30) -> None:
    """Two instances that ended just now; one of their series has gaps."""
    start = NOW - 1000 * count - 10_000
    rows = ticks(*((start + 1000 * i, [i * 1.1, i if i % 3 else float("nan")]) for i in range(count)))
    fill(path, header("a", start - 500), rows, "poweroff", tiers="1s:10m,10s:6h")
    fill(path, header("b", start), seconds(count, start + 333), "reset", tiers="1s:10m,10s:6h")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "vmm_metrics"
    recent(path)
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start rondo-push; processes that still run at the end of the test are killed."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(
        *arguments: str | Path, code: str | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        program = ["-c", code] if code else [str(ROOT / "bin" / "rondo-push")]
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=stdin,
            stderr=subprocess.PIPE,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def receiving(receiver: Receiver) -> Callable[[http.server.BaseHTTPRequestHandler, bytes], Reply]:
    lock = threading.Lock()

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        with lock:
            words = receiver.take(body)
        return (204, {}, b"") if words is None else (400, {}, words.encode())

    return answer


def in_flight(path: Path) -> object:
    return json.loads((path / "cursor_prometheus.json").read_text())["in_flight"]


def test_once_then_quiet(run: Run, store: Path) -> None:
    receiver = Receiver()
    with http_server(receiving(receiver)) as url:
        first = run("rondo-push", store, "--remote-write", url)
        assert (first.returncode, first.stdout, first.stderr) == (0, b"", b"")
        assert receiver.samples == expected(store)
        count = len(receiver.requests)
        second = run("rondo-push", store, "--remote-write", url, "-v")
        assert (second.returncode, second.stderr) == (
            0,
            b"rondo-push: 0 samples sent, 0 rejected, 0 unclear, 0 passed over, 0 requests\n",
        )
        assert len(receiver.requests) == count


@pytest.mark.parametrize("number", [1, 2])
def test_counts_of_one_are_singular(run: Run, tmp_path: Path, number: int) -> None:
    """One or two samples, and as many refusals after the five that are named."""
    plural = "s" if number > 1 else ""
    for at in range(5 + number):
        fill(tmp_path, header(f"vm-{at}"), seconds(number, NOW - 60_000))
    receiver = Receiver(lambda labels, t_ms: "no" if ("__name__", "heat") in labels else None)
    flags: tuple[str, ...] = ("--no-health", "-v", "--match")
    with http_server(receiving(receiver)) as url:
        refused = run("rondo-push", tmp_path, "--remote-write", url, *flags, "heat").stderr.decode()
        flags = ("--cursor", "second", *flags)
        sent = run(
            "rondo-push", tmp_path, "--remote-write", url, *flags, '{__name__!="heat",instance="vm-0"}'
        )
    assert f"passed over {number} sample{plural} of heat" in refused
    assert f"... and {number} refusal{plural} more; " in refused
    assert f"{number} sample{plural} sent, 0 rejected" in sent.stderr.decode()
    assert sent.stderr.endswith(b", 1 request\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], b"--remote-write"),
        (["--remote-write", "ftp://x/"], b"ftp://x/"),
        (["--remote-write", "http://u:p@x/"], b"password"),
        (["--remote-write", "http://x/", "--interval", "soon"], b"--interval"),
        (["--remote-write", "http://x/", "--interval", "30h"], b"--interval"),
        (["--remote-write", "http://x/", "--timeout", "0"], b"--timeout"),
        (["--remote-write", "http://x/", "--cursor", "../x"], b"--cursor"),
        (["--remote-write", "http://x/", "--job", ""], b"job"),
        (["--remote-write", "http://x/", "--external-label", "x"], b"--external-label"),
        (["--remote-write", "http://x/", "--max-samples-per-send", "0"], b"--max-samples-per-send"),
    ],
)
def test_usage_errors(run: Run, store: Path, arguments: list[str], says: bytes) -> None:
    done = run("rondo-push", store, *arguments)
    assert done.returncode == 64
    assert says in done.stderr
    assert b"Traceback" not in done.stderr


def test_exit_statuses(run: Run, store: Path, tmp_path: Path) -> None:
    away = ["--remote-write", "http://127.0.0.1:1/write"]
    done = run("rondo-push", store, *away)
    assert (done.returncode, done.stderr.count(b"\n")) == (75, 1)
    assert run("rondo-push", tmp_path / "none", *away).returncode == 69
    with http_server(lambda handler, body: (404, {}, b"")) as url:
        done = run("rondo-push", store, "--remote-write", url)
        assert done.returncode == 69
        assert b"--web.enable-remote-write-receiver" in done.stderr
    (store / "cursor_prometheus.json").write_text("{}")
    done = run("rondo-push", store, *away)
    assert done.returncode == 65
    assert b"cursor_prometheus.json" in done.stderr


def test_silent_while_another_delivers(run: Run, store: Path) -> None:
    fd = os.open(store / "cursor_prometheus.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = run("rondo-push", store, "--remote-write", "http://127.0.0.1:1/write")
        assert (done.returncode, done.stderr) == (0, b"")
        done = run("rondo-push", store, "--remote-write", "http://127.0.0.1:1/write", "--interval", "1s")
        assert done.returncode == 75
    finally:
        os.close(fd)


def test_no_store_and_a_terminal_is_a_usage_error() -> None:
    leader, follower = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, ROOT / "bin/rondo-push", "--remote-write", "http://127.0.0.1:1/"],
            stdin=follower,
            capture_output=True,
            timeout=300,
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 64
    assert b"STORE" in done.stderr


def lines(path: Path) -> bytes:
    return f"{path}\t1:40\n{path}\t1:4000\n".encode()


def test_a_follower_delivers_the_rest_when_the_lines_end(run: Run, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    start_ms = NOW - 20_000
    fill(other, header("c", start_ms), seconds(5, start_ms))  # it died, and was not declared lost yet
    receiver = Receiver()
    junk = b"what is this\n\xff\n" + b"x" * 20_000 + b"\n\t5:5\na/b/c\t5\nx\t-1:3\n"
    with http_server(receiving(receiver)) as url:
        feed = junk + lines(store) + lines(other)
        done = run("rondo-push", "--remote-write", url, "--interval", "1h", stdin=None, input=feed)
    assert done.returncode == 0, done.stderr
    assert receiver.samples == expected(store) | expected(other)
    assert done.stderr.count(b"not a line of rondo-store") == 1
    assert b"samples sent" in done.stderr


def test_a_follower_whose_endpoint_is_down_fails_only_at_the_end(run: Run, store: Path) -> None:
    nowhere = ("--remote-write", "http://127.0.0.1:1/write")
    done = run("rondo-push", *nowhere, stdin=None, input=lines(store))
    assert done.returncode == 75
    assert b"Connection refused" in done.stderr


def test_nothing_to_follow_is_logged(run: Run) -> None:
    done = run("rondo-push", "--remote-write", "http://127.0.0.1:1/write")
    assert done.returncode == 0
    assert b"nothing was delivered" in done.stderr


def test_a_follower_keeps_reading_while_the_endpoint_hangs(start: Start, store: Path) -> None:
    """The writer of the lines is never blocked: they are far more than a pipe holds."""
    released, asked = threading.Event(), threading.Event()
    receiver = Receiver()
    take = receiving(receiver)

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        asked.set()
        released.wait(300)
        return take(handler, body)

    with http_server(answer) as url:
        process = start("--remote-write", url, "--interval", "100ms", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(lines(store))
        process.stdin.flush()
        assert asked.wait(300)
        for _ in range(40):
            process.stdin.write(lines(store) * 200)  # in all 1 MB, blocking if nobody reads
        process.stdin.close()
        released.set()
        assert process.wait(300) == 0
        process.stdin = None
    assert receiver.samples == expected(store)


def test_the_first_interrupt_is_for_the_pipeline_and_the_second_ends_rondo_push(
    start: Start, store: Path
) -> None:
    receiver, asked = Receiver(), threading.Event()
    take = receiving(receiver)

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        reply = take(handler, body)
        asked.set()
        return reply

    with http_server(answer) as url:
        # Without rondo-push's own metrics, so that each request is one of the store's.
        flags = ["--interval", "50ms", "--no-health"]
        process = start("--remote-write", url, *flags, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(lines(store))
        process.stdin.flush()
        assert asked.wait(300)
        process.send_signal(signal.SIGINT)
        later = store.parent / "later"
        fill(later, header("d", NOW - 20_000), seconds(3, NOW - 20_000), "poweroff")
        asked.clear()
        process.stdin.write(lines(later))
        process.stdin.flush()
        assert asked.wait(300)  # it continues
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
    assert receiver.samples == expected(store) | expected(later)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_daemon_delivers_the_rest_and_exits_0(
    start: Start, store: Path, number: signal.Signals
) -> None:
    receiver, asked, go_on = Receiver(), threading.Event(), threading.Event()
    take = receiving(receiver)

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        asked.set()
        go_on.wait(300)
        return take(handler, body)

    with http_server(answer) as url:
        process = start(store, "--remote-write", url, "--interval", "1h", "--max-samples-per-send", "20")
        assert asked.wait(300)
        process.send_signal(number)
        fill(store, header("late", NOW - 9000), seconds(2, NOW - 9000), "poweroff", tiers="1s:10m,10s:6h")
        go_on.set()
        assert process.wait(300) == 0
    assert receiver.samples == expected(store)
    assert in_flight(store) is None


KILLED = """
import os, signal, sys
from rondo_tools.push import cli, cursor
from rondo_tools.push.http import transport

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

moment, *arguments = sys.argv[1:]
count = 0
send, save, fsync = transport.Transport.send, cursor.Cursor.save, os.fsync

def sending(self, *body):
    global count
    count += 1
    if moment == "before the send" and count == 2:
        die()
    answer = send(self, *body)
    if moment == "after the send" and count == 2:
        die()
    return answer

def syncing(fd):
    if moment == "during the save" and count == 2:
        os.write(fd, b"{")
        die()
    fsync(fd)

def saving(self):
    save(self)
    if moment == "after the save" and count == 2:
        die()

transport.Transport.send, cursor.Cursor.save, os.fsync = sending, saving, syncing
sys.exit(cli.main(arguments))
"""


def no_room(process: subprocess.Popen[bytes], *, on: bool) -> None:
    """Limit the size of the process' files, as if the disk were full; no other process is affected."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16 if on else -1, resource.RLIM_INFINITY))


@pytest.mark.parametrize("ends", ["there is room again", "kill -9"])
def test_nothing_is_sent_while_a_full_disk_prevents_saving_the_cursor(
    start: Start, run: Run, store: Path, ends: str
) -> None:
    receiver, asked = Receiver(), threading.Event()
    take = receiving(receiver)

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        reply = take(handler, body)
        asked.set()
        return reply

    with http_server(answer) as url:
        flags: list[str | Path] = [store, "--remote-write", url, "--no-health"]
        process = start(*flags, "--interval", "50ms", "-q")
        assert process.stderr is not None
        assert asked.wait(30)
        while in_flight(store) is not None:
            time.sleep(0.01)
        no_room(process, on=True)
        asked.clear()
        fill(store, header("late", NOW - 9000), seconds(2, NOW - 9000), "poweroff", tiers="1s:10m,10s:6h")
        assert b"cursor_prometheus.json: File too large" in process.stderr.readline()
        assert not asked.wait(1)  # nor at the next intervals
        if ends == "kill -9":
            process.kill()
            assert run("rondo-push", *flags).returncode == 0
        else:
            no_room(process, on=False)
            assert b"delivering again" in process.stderr.readline()
            process.terminate()
            assert process.wait(30) == 0
            assert process.stderr.read() == b""
    assert receiver.samples == expected(store)
    assert receiver.twice == 0


UNFORESEEN = """
import sys
from rondo_tools.push import cli, drain

name, *arguments = sys.argv[1:]
following = drain.Drain.next

def failing(self, *more, **flags):
    if self._layout.path.name == name:
        raise LookupError("an unexpected fault")
    return following(self, *more, **flags)

drain.Drain.next = failing
sys.exit(cli.main(arguments))
"""


def test_an_unexpected_error_is_one_line_and_status_70(start: Start, store: Path) -> None:
    for flags, has_traceback in (["-q"], False), (["--verbose"], True):
        flags = ["--remote-write", "http://127.0.0.1:1/", *flags]
        process = start(store.name, store, *flags, code=UNFORESEEN)
        log = process.communicate(timeout=30)[1]
        assert (process.returncode, b"Traceback" in log) == (70, has_traceback)
        assert b"LookupError: an unexpected fault" in log
        assert has_traceback or log.count(b"\n") == 1


def test_an_unexpected_error_of_one_store_does_not_stop_the_others(
    start: Start, store: Path, tmp_path: Path
) -> None:
    broken, receiver, asked = tmp_path / "broken", Receiver(), threading.Event()
    recent(broken)
    take = receiving(receiver)

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        reply = take(handler, body)
        asked.set()
        return reply

    with http_server(answer) as url:
        flags = ["--remote-write", url, "--interval", "50ms", "--no-health"]
        process = start("broken", *flags, code=UNFORESEEN, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(lines(broken) + lines(store))
        process.stdin.flush()
        assert asked.wait(30)
        fill(store, header("late", NOW - 9000), seconds(2, NOW - 9000), "poweroff", tiers="1s:10m,10s:6h")
        asked.clear()
        process.stdin.write(lines(store))
        process.stdin.flush()
        assert asked.wait(30)  # it continues
        log = process.communicate(timeout=30)[1]
    assert process.returncode == 70  # the state at the end of the input
    assert log.count(b"an unexpected fault") == 2  # when it begins, and at the end
    assert b"Traceback" not in log
    assert receiver.samples == expected(store)


@pytest.mark.parametrize("moment", ["before the send", "after the send", "during the save", "after the save"])
def test_kill_9_and_a_real_prometheus(
    start: Start,
    run: Run,
    store: Path,
    prometheus: Prometheus,
    moment: str,
) -> None:
    """The second of several batches is in flight when the process is killed. The next process continues:
    every sample arrives once, bit for bit, and none is refused."""
    flags: list[str | Path] = [store, "--remote-write", prometheus.write_url, "--max-samples-per-send", "30"]
    killed = start(moment, *flags, code=KILLED)
    assert killed.wait(300) == -signal.SIGKILL
    assert (in_flight(store) is None) == (moment == "after the save")
    done = run("rondo-push", *flags, "-v")
    assert (done.returncode, b"0 rejected, 0 unclear, 0 passed over" in done.stderr) == (0, True), done.stderr
    assert prometheus.samples('{job="rondo-vmm",instance!="rondo-push"}') == as_prometheus_shows(store)
    assert run("rondo-push", *flags, "-v").stderr.endswith(b" 0 requests\n")


def test_stale_markers_end_a_series_in_a_real_prometheus(
    run: Run, store: Path, prometheus: Prometheus
) -> None:
    assert run("rondo-push", store, "--remote-write", prometheus.write_url).returncode == 0
    last_s = max(t_ms for series in expected(store).values() for t_ms in series) / 1000
    assert len(prometheus.query('{instance="a"}', last_s - 1.5)) > 0
    assert prometheus.query('{job="rondo-vmm",instance!="rondo-push"}', last_s + 0.001) == []


def test_one_refused_series_costs_only_itself_in_a_real_prometheus(
    run: Run, store: Path, tmp_path: Path, prometheus: Prometheus
) -> None:
    """Another writer has newer samples of one series: real refusals, out of order."""
    foreign = tmp_path / "foreign"
    start_ms = NOW - 25_000
    only = header("a", start_ms, series=header().series[:1])
    fill(foreign, only, seconds(1, start_ms, width=1))
    assert run("rondo-push", foreign, "--remote-write", prometheus.write_url).returncode == 0
    done = run("rondo-push", store, "--remote-write", prometheus.write_url, "-v")
    assert done.returncode == 0
    assert b"out of order sample" in done.stderr
    got, wanted = prometheus.samples('{job="rondo-vmm",instance!="rondo-push"}'), as_prometheus_shows(store)
    for labels, samples in wanted.items():
        if dict(labels)["instance"] == "a" and dict(labels)["__name__"] == "cpu_total":
            assert got[labels][1:] == [(t_ms, value) for t_ms, value in samples if t_ms > start_ms]
        else:
            assert got[labels] == samples


def as_prometheus_shows(path: Path) -> dict[tuple[tuple[str, str], ...], list[tuple[int, str]]]:
    """All samples of a store but the stale markers, in Go's spelling of numbers below a million."""
    shown = {}
    for labels, samples in expected(path).items():
        values = [(t_ms, spelled(value)) for t_ms, value in sorted(samples.items()) if value != STALE_NAN]
        if values:
            shown[labels] = values
    return shown


def spelled(value: int) -> str:
    number = struct.unpack("<d", struct.pack("<Q", value))[0]
    return f"{number:.0f}" if number == int(number) else repr(number)
