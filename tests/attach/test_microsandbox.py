"""microsandbox's counters, from a fake `msb` that writes lines like version 0.7.11."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach.naming import Identity
from rondo_tools.attach.sources import microsandbox
from rondo_tools.attach.sources.adapters import Adapters, Target
from rondo_tools.attach.sources.microsandbox import MicrosandboxAdapter, parse
from rondo_tools.attach.sources.readings import Report
from tests.support.attach.attach_host import NOBODY_WITH_BPF, ROOT, Receiver, small_guest, watching
from tests.support.needs import PATIENCE_S

# Follows a file, as the real one follows a clock, and records how it was started.
MSB = """#!/bin/sh
echo "$$ $(id -u) $(grep CapAmb /proc/self/status) $MSB_HOME $*" >>"$MSB_HOME/started"
# Opened once: a test may remove the file at any moment.
if error=$(cat "$MSB_HOME/dies" 2>/dev/null); then echo "$error" >&2; exit 1; fi
exec tail -n +1 -f "$MSB_HOME/lines"
"""
READ, WRITTEN = (f'blk_bytes_total{{direction="{direction}"}}' for direction in ("read", "write"))
RECEIVED, SENT = (f'net_bytes_total{{direction="{direction}"}}' for direction in ("receive", "transmit"))


def line(name: str = "s1", *, uptime_s: float = 0.5, ago_s: float = 0, **fields: object) -> str:
    """A line of msb 0.7.11, with changes by the arguments; None removes a field."""
    taken = datetime.fromtimestamp(time.time() - ago_s, UTC)
    line = {
        "cpu_percent": 59.65972900390625, "cpus": 1, "disk_read_bytes": 1975296, "disk_write_bytes": 3428352,
        "memory_available_bytes": 246276096, "memory_bytes": 22159360, "memory_host_resident_bytes": 51838976,
        "memory_limit_bytes": 268435456, "name": name, "net_rx_bytes": 60, "net_tx_bytes": 806,
        "state": "running", "timestamp": taken.isoformat(timespec="milliseconds"),
        "upper_free_bytes": 4132040704, "upper_host_allocated_bytes": 4725760, "upper_used_bytes": 3215360,
        "uptime_secs": uptime_s, "vcpu_time_ns": 9693550229, **fields,
    }  # fmt: skip
    return json.dumps({field: value for field, value in line.items() if value is not None}) + "\n"


class Home:
    """A folder of microsandbox, with a fake msb, and processes for sandboxes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        (folder / "bin").mkdir()
        (folder / "bin/msb").write_text(MSB)
        (folder / "bin/msb").chmod(0o755)
        (folder / "lines").touch()

    def write(self, *lines: str) -> None:
        with (self.folder / "lines").open("a") as file:
            file.writelines(lines)

    def started(self) -> list[list[str]]:
        """For each msb: process and user id, a word, its ambient capabilities, the home, its arguments."""
        path = self.folder / "started"
        return [one.split() for one in path.read_text().splitlines()] if path.exists() else []

    def target(self, name: str = "s1", vmm: str = "libkrun", user: int | None = None) -> Target:
        process = subprocess.Popen(["sleep", "1000"], user=user)
        self.processes.append(process)
        return Target(process.pid, Identity(name, "--name", vmm), 0.2)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(microsandbox, "_FIRST_PAUSE_S", 0.01)
    with tempfile.TemporaryDirectory(prefix="msb-") as folder:  # not in tmp_path, which one user owns
        Path(folder).chmod(0o755)
        home = Home(Path(folder))
        try:
            yield home
        finally:
            for process in home.processes:
                process.kill()
                process.wait()


def counters(report: Report) -> dict[str, float]:
    return {} if report.reading is None else {str(one): n for one, n in report.reading.counters.items()}


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


def following(
    home: Home, targets: list[Target], check: Callable[..., Awaitable[None]], *, warns: bool = True
) -> list[str]:
    """Follow `targets` and run `check` with their reports; returns each one's refusal, or ""."""

    async def run() -> list[str]:
        adapter = MicrosandboxAdapter(str(home.folder), warns=warns)
        reports = [Report() for _ in targets]
        tasks = [
            asyncio.create_task(adapter.follow(target, report))
            for target, report in zip(targets, reports, strict=True)
        ]
        try:
            await check(*reports)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        return ["" if isinstance(end, asyncio.CancelledError) else str(end) for end in ends]

    return asyncio.run(run())


def is_gone(pid: str) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_one_child_for_all_sandboxes(home: Home) -> None:
    async def check(first: Report, second: Report) -> None:
        home.write(line(), line("s2", disk_read_bytes=7))
        await until(lambda: first.reading and second.reading)
        assert counters(first) == {READ: 1975296, WRITTEN: 3428352, RECEIVED: 60, SENT: 806}
        assert counters(second)[READ] == 7
        home.write(line(disk_read_bytes=2000000))
        await until(lambda: counters(first)[READ] == 2000000)

    assert following(home, [home.target(), home.target("s2")], check) == ["", ""]
    ((pid, _, _, _, folder, *arguments),) = home.started()
    assert folder == str(home.folder)
    assert arguments == ["metrics", "--follow", "--all", "--interval", "100ms"]
    assert is_gone(pid)


def test_a_field_missing_in_the_line_is_not_a_series(home: Home) -> None:
    async def check(report: Report) -> None:
        home.write(line(net_rx_bytes=None, net_tx_bytes="0", disk_write_bytes=-1))
        await until(lambda: report.reading)
        assert counters(report) == {READ: 1975296}

    following(home, [home.target()], check)


def test_reset_counters_are_added_up(home: Home) -> None:
    async def check(report: Report) -> None:
        home.write(line(net_tx_bytes=100), line(net_tx_bytes=130), line(net_tx_bytes=4))
        await until(lambda: counters(report).get(SENT) == 134)

    following(home, [home.target()], check)


def test_invalid_and_truncated_lines_are_skipped(home: Home) -> None:
    whole = line(disk_read_bytes=1)
    another = whole.replace('"s1"', "7")
    assert another != whole
    garbage = ("\n", "[1]\n", "null\n", "\x00\xff\n", whole[:50] + whole, "{" * 5000 + "\n", another)

    async def check(report: Report) -> None:
        home.write(*garbage, line(uptime_s=float("inf")), line(timestamp="soon"), line(disk_read_bytes=2))
        await until(lambda: report.reading)
        assert counters(report)[READ] == 2
        assert len(home.started()) == 1

    following(home, [home.target()], check)


@pytest.mark.parametrize(
    ("flood", "why"),
    [
        ("x" * (2 << 20), "a line of more than 1 MiB"),
        (f"{'x' * 1000}\n" * 5000, "more than 4 MiB in an interval"),
    ],
)
def test_a_flooding_child_is_restarted(home: Home, flood: str, why: str) -> None:
    async def check(report: Report) -> None:
        home.write(flood)
        await until(lambda: report.refused and why in report.refused[0])
        (home.folder / "lines").write_text(line())
        await until(lambda: report.reading)
        assert report.refused is None

    # A long interval for slow machines, so that the flood fits into one.
    following(home, [home.target()._replace(interval_s=PATIENCE_S if "interval" in why else 0.2)], check)
    assert len(home.started()) >= 2
    assert all(is_gone(pid) for pid, *_ in home.started())


def test_a_crashed_child_is_restarted(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microsandbox, "_EXIT_S", PATIENCE_S)  # time for its error message
    (home.folder / "dies").write_text("a line\nerror: no \x1b[31mdatabase\n")

    async def check(report: Report) -> None:
        await until(lambda: len(home.started()) >= 3)
        await until(lambda: report.refused)
        assert report.refused is not None
        assert report.refused[0].startswith("msb ended: error: no ")
        assert "\x1b" not in report.refused[0]
        (home.folder / "dies").unlink()
        home.write(line())
        await until(lambda: report.reading)
        assert report.refused is None

    following(home, [home.target()], check)
    assert len(caplog.messages) == 1  # however often it crashed


def test_a_silent_child_is_restarted(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microsandbox, "_SILENT_S", 0.05)

    async def check(report: Report) -> None:
        await until(lambda: len(home.started()) >= 3)
        await until(lambda: report.refused and "does not list this sandbox" in report.refused[0])

    following(home, [home.target()], check)
    assert caplog.messages == []  # silence may be normal


def test_without_msb_there_is_one_warning(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [home.target(), home.target("s2")]
    (home.folder / "bin/msb").unlink()
    monkeypatch.setenv("PATH", "/nowhere")

    async def check(*reports: Report) -> None:
        await until(lambda: all(report.refused for report in reports))

    assert following(home, targets, check) == ["", ""]
    assert caplog.messages == [f"no microsandbox: msb is neither in {home.folder}/bin nor on PATH"]
    assert following(home, targets, check, warns=False) == ["", ""]
    assert len(caplog.messages) == 1


def test_only_an_exact_match_gets_counters(home: Home) -> None:
    """Not with another name, time or VMM; and if two processes match, neither."""

    async def check(report: Report, *twins: Report) -> None:
        home.write(
            line("other"),
            line(uptime_s=3600),  # an earlier life
            line(state="exited", ago_s=3600),
            line("twin"),
            line(disk_read_bytes=5),
        )
        await until(lambda: report.reading)
        assert counters(report)[READ] == 5
        assert [twin.reading for twin in twins] == [None, None]
        await until(lambda: all(twin.refused and "2 processes" in twin.refused[0] for twin in twins))

    following(home, [home.target(), home.target("twin"), home.target("twin")], check)

    async def refused(*_: Report) -> None:
        await asyncio.sleep(0)

    strangers = [
        home.target(vmm="qemu"),
        home.target()._replace(identity=Identity("s1", "cgroup", "libkrun")),
    ]
    assert following(home, strangers, refused) == ["it is not a sandbox of microsandbox"] * 2
    assert len(home.started()) == 1


def test_a_missing_folder_is_reported(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    target = home.target()
    home.folder = home.folder / "nowhere"

    async def check(_: Report) -> None:
        await asyncio.sleep(0)

    assert (
        following(home, [target, home.target()], lambda *_: check(Report()))
        == [f"{home.folder}: No such file or directory"] * 2
    )
    assert len(caplog.messages) == 1


WATCHER = """
import sys
from rondo_tools.attach.naming import Identity
from rondo_tools.attach.sources.adapters import Adapters
from rondo_tools.attach.sources.microsandbox import MicrosandboxAdapter
adapters = Adapters([MicrosandboxAdapter(sys.argv[1])], 0.2)
adapters.follow(int(sys.argv[2]), Identity("s1", "--name", "libkrun"), begins_at_0=False)
sys.stdin.read()
adapters.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("wrapper", [[], NOBODY_WITH_BPF])
def test_the_child_runs_as_the_folders_owner_without_capabilities(home: Home, wrapper: list[str]) -> None:
    for path in (home.folder, home.folder / "lines"):
        os.chown(path, 65534, 65534)
    command = [*wrapper, sys.executable, "-c", WATCHER, str(home.folder), str(home.target(user=65534).pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as watcher:
        try:
            asyncio.run(until(home.started))
            watcher.communicate(timeout=PATIENCE_S)
        finally:
            watcher.kill()
    (started,) = home.started()
    assert started[1:4] == ["65534", "CapAmb:", "0000000000000000"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_sandbox_of_another_user_is_refused(home: Home) -> None:
    async def check(_: Report) -> None:
        await asyncio.sleep(0)

    ends = following(home, [home.target(user=65534)], check)
    assert ends == [f"its user is not the owner of {home.folder}"]


def test_the_adapter_waits_for_a_sandboxs_last_line(home: Home) -> None:
    async def check() -> None:
        adapter, report = MicrosandboxAdapter(str(home.folder)), Report()
        target = home.target()
        task = asyncio.create_task(adapter.follow(target, report))
        home.write(line(disk_read_bytes=1))
        await until(lambda: report.reading)
        home.processes[0].kill()
        home.processes[0].wait()
        report.is_last.set()
        home.write(line(disk_read_bytes=9, state="exited"))
        await task
        assert counters(report)[READ] == 9
        await adapter.follow(target, report)  # the last call, like the thread's

    asyncio.run(check())


def test_a_sandbox_that_begins_as_the_last_one_ends_is_followed(home: Home) -> None:
    async def check() -> None:
        adapter, first, second = MicrosandboxAdapter(str(home.folder)), Report(), Report()
        going = asyncio.create_task(adapter.follow(home.target(), first))
        home.write(line())
        await until(lambda: first.reading)
        going.cancel()
        coming = asyncio.create_task(adapter.follow(home.target("s2"), second))
        await asyncio.gather(going, return_exceptions=True)
        home.write(line("s2"))
        await until(lambda: second.reading)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)

    asyncio.run(check())
    assert all(is_gone(pid) for pid, *_ in home.started())


def test_the_child_ends_with_the_watcher(home: Home) -> None:
    target = home.target()
    adapters = Adapters([MicrosandboxAdapter(str(home.folder))], 0.2)
    try:
        (source,) = adapters.follow(target.pid, target.identity, begins_at_0=False)
        home.write(line())
        deadline = time.monotonic() + PATIENCE_S
        while not source.take() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert {str(one) for one in source.series} == {READ, WRITTEN, RECEIVED, SENT}
    finally:
        adapters.close()
    ((pid, *_),) = home.started()
    assert is_gone(pid)


def test_a_watched_sandbox_has_the_series(home: Home, receiver: Receiver) -> None:
    """With the program, and a VM whose process has the name of microsandbox's."""
    flags = ("--output", receiver.address, "--match", "name=s1")
    with watching(*flags, "--microsandbox", str(home.folder)) as watcher:
        with small_guest("--name", "s1", program="msb") as guest:
            guest.do("make", "run 10")
            home.write(line(disk_read_bytes=12))
            receiver.wait_for("s1", lambda got: got.last().get(READ) == 12)
            guest.do("run 3")
            guest.quit()
            (session,) = receiver.wait("s1", ended=1)
        assert watcher.stop() == 0
    assert session.exits()["io"] == 13
    assert session.last()[SENT] == 806
    assert session.labels == {"vmm": "libkrun"}


@given(st.binary() | st.text().map(str.encode))
def test_any_line_is_parsed_or_ignored(data: bytes) -> None:
    parse(data)


@given(
    st.fixed_dictionaries(
        {"name": st.text(), "state": st.text(), "timestamp": st.datetimes().map(str) | st.text()},
        optional={
            "uptime_secs": st.floats() | st.integers() | st.text() | st.none(),
            "disk_read_bytes": st.integers() | st.floats() | st.text() | st.booleans(),
        },
    )
)
def test_any_fields_are_counters_or_ignored(fields: dict[str, object]) -> None:
    sample = parse(json.dumps(fields).encode())
    if sample is not None:
        assert all(type(value) is int and value >= 0 for value in sample.counters.values())
