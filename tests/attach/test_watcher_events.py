"""The order of a VM's event and exits: the event comes first."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from rondo_tools import clock
from rondo_tools.attach import discover
from rondo_tools.attach.choose import Choice
from rondo_tools.attach.counters.base import ProcessExits
from rondo_tools.attach.discover import KvmEvent, Scan
from rondo_tools.attach.kept import KeptFile
from rondo_tools.attach.lives import Options
from rondo_tools.attach.watch import Watcher
from rondo_tools.catalog import EXIT_REASONS
from rondo_tools.stream import Tick
from tests.attach.test_late_sources import Sent


class Events:
    """KVM's events from the test."""

    overruns = 0

    def __init__(self) -> None:
        self._pipe = os.pipe()
        self.queued: list[KvmEvent] = []

    def fileno(self) -> int:
        return self._pipe[0]

    def receive(self) -> list[KvmEvent]:
        events, self.queued = self.queued, []
        return events

    def close(self) -> None:
        for fd in self._pipe:
            os.close(fd)


class Counters:
    """Exits by process."""

    name = "bpf"
    reasons: tuple[str, ...] = EXIT_REASONS
    counts_from_birth = knows_threads = True
    notes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.counted: dict[int, ProcessExits] = {}

    def begin(self, pid: int) -> None:
        pass

    def read(self) -> Mapping[int, ProcessExits]:
        return dict(self.counted)

    def lost(self) -> int:
        return 0

    def forget(self, pid: int) -> None:
        self.counted.pop(pid, None)

    def close(self) -> None:
        pass


class SentOncePutDown(Sent):
    """A sink that checks that the kept file has the session of each tick."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def tick(self, tick: Tick) -> None:
        assert '"sleep"' in self._file.read_text()
        super().tick(tick)


@pytest.fixture
def vmm() -> Iterator[int]:
    """A process that is older than the counters."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("found_by", ["exits", "scan"])
def test_a_vm_with_an_unread_event_is_not_late(
    found_by: str, vmm: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the kept file has it before its first tick."""
    now_ms = clock.now_ms()
    monkeypatch.setattr(clock, "now_ms", lambda: now_ms)
    counts = (10, 0, 0, 0, 0, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    path = f"/kvm/{vmm}-9"
    with ExitStack() as opened:
        epoll = opened.enter_context(select.epoll())
        events, counters, sent = Events(), Counters(), SentOncePutDown(tmp_path / "lives")
        opened.callback(events.close)
        found: tuple[discover.Found, ...] = ()
        since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        watcher = Watcher(
            Options(1000, Choice()),
            sent,
            counters,
            since_boot_s,
            events,  # type: ignore[arg-type]  # a fake, see there
            epoll,
            scan=lambda: Scan(found, is_complete=True),
            kept=KeptFile(tmp_path, 1, since_boot_s, is_map_kept=False),
        )
        opened.callback(watcher.close)
        watcher.begin()
        counters.counted[vmm] = ProcessExits({vmm: counts})
        events.queued.append(KvmEvent(True, vmm, path))
        if found_by == "scan":
            found = (discover.Found(vmm, path),)
            watcher.rescan()
        now_ms += 1000
        watcher.turn()
    assert [dict(header.labels) for header in sent.headers] == [{"vmm": "sleep"}]
    assert {str(series): value for series, value in sent.rows[-1].items()}[
        'vcpu_exits_total{reason="io"}'
    ] == 10
