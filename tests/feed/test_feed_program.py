"""rondo-feed as a program: pipes, killed stores, cron, ends, and wrong command lines."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rondo_tools.feed import cli
from rondo_tools.store.reader import Session, Store
from rondo_tools.stream import Decoder, End, Header, Tick
from tests.support.feed.feed_host import rows_of
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
FEED = [sys.executable, str(ROOT / "bin" / "rondo-feed")]
WAITING = "import sys; from rondo_tools.feed import cli, single; single._WAIT_S = {}; sys.exit(cli.main())"
"""The same, with this time-out for another process that has the instance."""


def events_of(data: bytes) -> list[Header | Tick | End]:
    decoder = Decoder()
    events = list(decoder.feed(data))
    decoder.close()
    return events


def fed(run: Run, text: str, *flags: str | Path, status: int = 0) -> tuple[list[Header | Tick | End], str]:
    """The events that rondo-feed makes of an input, and its standard error."""
    ran = run("rondo-feed", *flags, input=text.encode(), stdin=None)
    assert ran.returncode == status, ran.stderr
    return events_of(ran.stdout), ran.stderr.decode()


def until(happened: Callable[[], object]) -> None:
    """Wait until `happened` returns something true."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


@contextmanager
def feeding(*flags: str | Path, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """A rondo-feed with a pipe for lines."""
    with subprocess.Popen(
        [*FEED, *flags], stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[bytes], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())
    process.stdin.flush()


class Served:
    """A rondo-store on a Unix socket that can be killed and restarted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vmm_metrics"
        self.address = f"unix:{folder / 'store.sock'}"
        self._socket = folder / "store.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        program = [sys.executable, str(ROOT / "bin" / "rondo-store")]
        self._process = subprocess.Popen(
            [*program, self.path, "--listen", self.address, "--no-health", "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        until(self._socket.exists)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def sessions(self, instance: str = "box") -> list[Session]:
        if not (self.path / "store.json").exists():
            return []
        found = [one for one in Store(self.path).sessions() if one.instance == instance]
        return sorted(found, key=lambda one: one.start_ms)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.kill()


def values_of(session: Session, series: str) -> list[float]:
    """The values of a series, without NaN."""
    rows = session.rows()
    column = [str(one) for one in session.header.series].index(series)
    return [value for value in rows.values[:, column].tolist() if value == value]


# --- pipes -----------------------------------------------------------------------------------------------


def test_a_line_becomes_a_session(run: Run) -> None:
    flags = ("--hold", "0", "--instance", "box", "--label", "rack=a1", "--interval", "10s")
    (header, tick, end), log = fed(run, 'jobs{queue="mail"} 3\n', *flags)
    assert isinstance(header, Header)
    assert header[0] == "box"
    assert header[2:4] == ((("rack", "a1"),), 10_000)
    assert isinstance(tick, Tick)
    assert rows_of([header, tick]) == [(tick.t_ms, {'jobs{queue="mail"}': 3})]
    assert end == End("eof", tick.t_ms)
    assert log == ""


def test_the_default_instance_is_the_host(run: Run) -> None:
    header = fed(run, "x 1\n", "--hold", "0")[0][0]
    assert isinstance(header, Header)
    assert header.instance == os.uname().nodename


def test_a_recorded_input_fed_twice_is_stored_once(run: Run, tmp_path: Path) -> None:
    """More ticks than a backlog, into a pipe that is read slowly: nothing is dropped."""
    recorded = "".join(
        f"x {i} {1_600_000_000 + i}\ny_total {2 * i} {1_600_000_000 + i}\n" for i in range(5_000)
    )
    for _ in range(2):
        with feeding("--instance", "old", "--output", "-") as process:
            assert process.stdin is not None
            assert isinstance(process.stdout, io.BufferedReader)
            writer = os.fork()
            if writer == 0:
                process.stdin.write(recorded.encode())
                process.stdin.close()
                os._exit(0)
            process.stdin.close()
            pieces = []
            while piece := process.stdout.read1(500):
                pieces.append(piece)
            os.waitpid(writer, 0)
            assert process.wait(PATIENCE_S) == 0
        data = b"".join(pieces)
        rows = rows_of(events_of(data))
        assert rows == [(1000 * (1_600_000_000 + i), {"x": i, "y_total": 2 * i}) for i in range(5_000)]
        (tmp_path / "stream").write_bytes(data)
        with (tmp_path / "stream").open("rb") as stream:
            stored = run("rondo-store", tmp_path / "m", "--tiers", "1s:10m,1m:1000w", "-q", stdin=stream)
        assert stored.returncode == 0, stored.stderr
    (session,) = Store(tmp_path / "m").sessions()
    assert session.start_ms == 1_600_000_000_000


def test_a_shell_loop_into_a_store(store: Served) -> None:
    """The example of --help, faster."""
    feed = " ".join(FEED)
    script = 'i=0; while [ $i -lt 20 ]; do i=$((i + 1)); echo "jobs_total $i"; sleep 0.1; done'
    script += f" | {feed} --instance box --interval 100ms --hold 0 --output {store.address}"
    assert subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, timeout=PATIENCE_S).returncode == 0
    (session,) = store.sessions()
    assert session.end is not None
    assert session.end.reason == "eof"
    found = values_of(session, "jobs_total")
    assert found == sorted(found)
    assert found[-1] == 20
    assert session.header.series[0].kind == "counter"


def test_readable_lines(run: Run) -> None:
    ran = run("rondo-feed", "--text", "--hold", "0", "--instance", "box", input=b"x 1\n", stdin=None)
    first, second, third = ran.stdout.decode().splitlines()
    assert first.startswith("# rondo instance=box")
    assert second.endswith("Z x=1")
    assert third.startswith("# end eof")


# --- stores that die -------------------------------------------------------------------------------------


def test_a_killed_store_loses_nothing(store: Served) -> None:
    away = []
    with feeding("--instance", "box", "--interval", "100ms", "--output", store.address) as process:
        number = 0

        def say_until(happened: Callable[[], object]) -> None:
            nonlocal number
            while not happened():
                number += 1
                say(process, f"x {number}")
                time.sleep(0.05)

        say_until(lambda: [one for one in store.sessions() if one.rows().t_ms.size > 3])
        for _ in range(2):
            store.kill()
            began_ms = time.time() * 1000
            say_until(lambda: time.time() * 1000 > began_ms + 1_000)  # noqa: B023
            away.append((began_ms, time.time() * 1000))
            store.start()
            sent = number
            say_until(lambda: values_of(store.sessions()[0], "x")[-1] > sent)  # noqa: B023
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0  # every tick was acknowledged
    (session,) = store.sessions()
    assert session.end is not None
    t_ms, values = session.rows().t_ms.tolist(), values_of(session, "x")
    assert len(t_ms) == len(set(t_ms)) == len(values)
    assert values == sorted(values)
    for begin_ms, end_ms in away:
        assert [t for t in t_ms if begin_ms < t < end_ms]


def test_a_killed_feed_leaves_its_sent_ticks(store: Served) -> None:
    with feeding("--instance", "box", "--interval", "100ms", "--output", store.address) as process:
        say(process, "x 1")
        until(lambda: [one for one in store.sessions() if one.rows().t_ms.size > 3])
        process.kill()
        process.wait()
    with feeding(
        "--instance", "box", "--interval", "100ms", "--hold", "0", "--output", store.address
    ) as process:
        process.communicate(b"x 2\n", PATIENCE_S)
        assert process.returncode == 0  # the lock is free again after its owner's death
    assert [values_of(one, "x")[-1] for one in store.sessions()] == [1, 2]


def test_undelivered_ticks_are_reported(run: Run, tmp_path: Path) -> None:
    _, log = fed(
        run, "x 1\n", "--hold", "0", "--linger", "100ms", "--output", f"unix:{tmp_path / 'none'}", status=75
    )
    assert "1 of 1 tick not delivered" in log


# --- holding and taking over -----------------------------------------------------------------------------


def by_cron(store: Served, home: Path) -> subprocess.Popen[bytes]:
    """Run the line of docs/feed.md like crontab(5): by sh, with almost no environment."""
    page = (ROOT / "docs" / "feed.md").read_text()
    (line,) = re.findall(r"^(?:\* ){5}me (.*rondo-feed.*)$", page, re.MULTILINE)
    command = line.replace(r"\%", "%")
    assert "%" not in line.replace(r"\%", "")  # cron would turn it into a newline
    for there, here in (
        ("/usr/local/bin/rondo-feed", shlex.join([sys.executable, "-c", WAITING.format(PATIENCE_S)])),
        ("unix:/run/rondo/store.sock", store.address),
        ("/var/backups/db.tar", str(home / "db.tar")),
    ):
        assert there in command
        command = command.replace(there, here)
    environment = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "HOME": str(home), "LOGNAME": "me"}
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def test_a_line_from_cron_is_repeated_until_the_next_takes_over(store: Served, tmp_path: Path) -> None:
    (tmp_path / "db.tar").write_bytes(b"1")
    first = by_cron(store, tmp_path)
    second = None
    try:
        until(lambda: [one for one in store.sessions("backup") if one.rows().t_ms.size > 1])  # it is repeated
        (tmp_path / "db.tar").write_bytes(b"12")
        second = by_cron(store, tmp_path)
        out, _ = first.communicate(timeout=PATIENCE_S)
        assert out == b""  # cron would mail any output
        assert first.returncode == 0
        until(lambda: [one for one in store.sessions("backup") if values_of(one, "backup_bytes")[-1:] == [2]])
        assert second.poll() is None
    finally:
        for process in (first, second):
            if process is not None:
                subprocess.run(["pkill", "-INT", "-P", str(process.pid)], check=False)
                process.communicate()
    old, new = store.sessions("backup")
    assert old.end is not None
    assert old.end.reason == "eof"
    assert {*values_of(old, "backup_bytes")} == {1}
    assert {*values_of(new, "backup_bytes")} == {2}
    assert old.rows().t_ms[-1] < new.rows().t_ms[0]  # never both at once


def test_one_of_many_from_cron_remains(store: Served, tmp_path: Path) -> None:
    (tmp_path / "db.tar").write_bytes(b"1")
    running = [by_cron(store, tmp_path) for _ in range(4)]
    try:
        until(lambda: [process.poll() for process in running].count(0) == 3)
        (left,) = [process for process in running if process.poll() is None]
        ticks = store.sessions("backup")[-1].rows().t_ms.size
        until(lambda: store.sessions("backup")[-1].rows().t_ms.size > ticks)
        assert left.poll() is None
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.communicate()
    assert [one.end.reason for one in store.sessions("backup") if one.end is not None].count("eof") == 3


def test_a_second_feed_of_an_instance_is_refused(
    store: Served,
) -> None:
    with feeding("--instance", "box", "--output", store.address) as process:
        say(process, "x 1")
        until(store.sessions)
        command = [sys.executable, "-c", WAITING.format(0.1), "--instance", "box", "--output", store.address]
        second = subprocess.run(command, input=b"x 2\n", capture_output=True, cwd=ROOT, timeout=PATIENCE_S)
        assert second.returncode == 69
        assert f"fed by another rondo-feed (process {process.pid})" in second.stderr.decode()
        assert "--instance" in second.stderr.decode()
        # The first one continues, even when it begins to hold.
        assert process.stdin is not None
        process.stdin.close()
        ticks = store.sessions()[0].rows().t_ms.size
        until(lambda: store.sessions()[0].rows().t_ms.size > ticks + 1)
        assert process.poll() is None


# --- ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sends_the_last_values_and_the_end(number: signal.Signals, store: Served) -> None:
    with feeding("--instance", "box", "--interval", "1h", "--output", store.address) as process:
        say(process, "x 1", "x 2")
        until(lambda: not unread(process))
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    (session,) = store.sessions()
    assert session.end is not None
    assert session.end.reason == "signal"
    assert values_of(session, "x") == [2]


def unread(process: subprocess.Popen[bytes]) -> int:
    """The bytes of its input that a process has not read."""
    assert process.stdin is not None
    return int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_it_ends_with_its_reader() -> None:
    with feeding("--interval", "100ms") as process:
        say(process, "x 1")
        assert process.stdout is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 75
        assert process.stderr is not None
        assert b"not delivered" in process.stderr.read()


def test_left_out_lines_set_the_status(run: Run) -> None:
    events, log = fed(run, "x 1\ngarbage\n", "--hold", "0", status=65)
    assert [values for _, values in rows_of(events)] == [{"x": 1}]
    assert "line 2 is left out: not NAME" in log
    assert log.endswith("rondo-feed: 1 line left out\n")
    assert "without a value" in fed(run, "", status=65)[1]


# --- wrong command lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--url", "localhost:9100"], "--url"),
        (["--url", "http://me:secret@localhost/"], "other users of this machine can read it"),
        (["--url", "http://localhost/", "--hold", "5m"], "--hold is for standard input"),
        (["--url", "http://localhost/", "--timeout", "1s"], "it must be less than the interval, 1s"),
        (["--timeout", "1s"], "--timeout needs --url"),
        (["--ignore-times"], "--ignore-times needs --url"),
        (["--ca-file", "x"], "--ca-file needs --url"),
        (["--instance", ""], "--instance"),
        (["--label", "instance=a"], "--label"),
        (["--label", "a=b", "--label", "a=c"], "--label: 'a' is given more than once"),
        (["--label", "a"], "NAME=VALUE"),
        (["--interval", "10ms"], "100ms is the shortest"),
        (["--match", "{"], "selector"),
        (["--hold", "soon"], "--hold"),
        (["--text", "--output", "unix:/nowhere"], "--text is for people"),
        (["--output", "tcp:here"], "tcp:HOST:PORT"),
    ],
)  # fmt: skip
def test_the_message_names_a_wrong_flag(
    flags: Sequence[str], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = cli.main(["--output", os.devnull, *flags])
    except SystemExit as exc:
        status = exc.code
    assert status == 64
    assert why in capfd.readouterr().err


def test_the_stream_is_not_written_to_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        with feeding(stdout=theirs) as process:
            _, log = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 64
        assert b"`rondo-feed | rondo-store vmm_metrics`" in log
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_closed_input_is_reported() -> None:
    ran = subprocess.run(["sh", "-c", f"{' '.join(FEED)} <&-"], capture_output=True, timeout=PATIENCE_S)
    assert ran.returncode == 64
    assert b"standard input is closed" in ran.stderr
