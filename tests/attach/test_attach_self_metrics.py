"""rondo-attach's own metrics, as the instance rondo-attach."""

from __future__ import annotations

import math
import os
import re
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rondo_tools.attach import sinks
from rondo_tools.attach.self_metrics import INSTANCE, SERIES, SelfMetrics, Tally
from rondo_tools.attach.sinks import StoreSink
from rondo_tools.attach.sources.base import Moment
from rondo_tools.attach.sources.readings import Reading, Report
from rondo_tools.producer.address import UnixAddress
from rondo_tools.stream import End, Header, Tick
from tests.support.attach.attach_host import ROOT, Receiver, Watcher, small_guest, watching

NOW = Moment(1_000, 0.0, {})


# --- the instance --------------------------------------------------------------------------------


def test_the_watcher_is_an_instance_of_its_own(receiver: Receiver) -> None:
    flags = ("--output", receiver.address, "--match", "name=*own-*", "--label", "rack=a1")
    with watching(*flags) as watcher, small_guest(name="own-1") as guest:
        guest.do("make", "run 1")
        receiver.wait_for(INSTANCE, lambda got: got.last()["attach_vms"] == 1)
        guest.quit()
        receiver.wait_for(INSTANCE, lambda got: got.last()['attach_lives_total{event="end"}'] == 1)
        receiver.wait_for(INSTANCE, lambda got: not got.last()["attach_waiting_sessions"])
        assert watcher.stop() == 0
    (own,) = receiver.wait(INSTANCE, ended=1)
    assert own.end == End("signal", own.ticks[-1].t_ms)
    assert own.labels == {"rack": "a1"}
    last = own.last()
    assert list(last) == [str(one) for one in SERIES if one.name != "attach_adapters"]
    assert last['attach_lives_total{event="begin"}'] == 1
    assert last["attach_vms"] == 0
    assert last["attach_cpu_seconds_total"] > 0.01
    assert 1 << 20 < last["attach_rss_bytes"] < 1 << 30
    assert not last["attach_lost_exits_total"]


def test_a_late_tick_has_its_lag(receiver: Receiver) -> None:
    with watching("--output", receiver.address) as watcher:
        receiver.wait(INSTANCE, ticks=1)
        watcher.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # at least 1.5 s after a tick was due
        watcher.process.send_signal(signal.SIGCONT)
        receiver.wait_for(INSTANCE, lambda got: max(r["attach_tick_lag_ns"] for r in got.rows) >= 1.5e9)


def test_a_vm_cannot_take_its_name(receiver: Receiver) -> None:
    flags = ("--output", receiver.address, "--match", f"name={INSTANCE}")
    with watching(*flags), small_guest("-name", INSTANCE) as guest:
        guest.do("make", "run 7")
        (session,) = receiver.wait(f"{INSTANCE}-{guest.pid}", ticks=1)
        assert session.labels == {"vmm": "qemu"}


def test_its_counts_restart_after_the_clock_is_set_back(receiver: Receiver, tmp_path: Path) -> None:
    offset = tmp_path / "clock"
    offset.write_text("0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "set_clock"), "SET_CLOCK": str(offset)}
    flags = ("--output", receiver.address, "--match", "name=*owned-*")
    with watching(*flags, environment=environment), small_guest(name="owned-1") as guest:
        guest.do("make")
        receiver.wait_for(INSTANCE, lambda got: got.last()['attach_lives_total{event="begin"}'] == 1)
        new = tmp_path / "new"
        new.write_text("-3600000")
        new.replace(offset)
        receiver.wait(INSTANCE, ended=1)
        guest.quit()
        key = 'attach_lives_total{event="end"}'
        with receiver.changed:
            assert receiver.changed.wait_for(lambda: any(key in r and r[key] == 1 for r in rows(receiver)))
        second, first = receiver.of(INSTANCE)
    assert first.end is not None
    assert first.end.reason == "clock"
    assert second.last()['attach_lives_total{event="begin"}'] == 0
    assert second.last()["attach_vms"] == 0


def rows(receiver: Receiver) -> list[dict[str, float]]:
    """The ticks of the session that began first."""
    return receiver.of(INSTANCE)[0].rows[-1:]


@pytest.mark.parametrize("flags", [["--no-health"], ["--pid", "{pid}"]])
def test_its_metrics_can_be_left_out(flags: list[str], receiver: Receiver) -> None:
    with small_guest(name="owner") as guest:
        guest.do("make")
        flags = [flag.format(pid=guest.pid) for flag in flags]
        with watching("--output", receiver.address, *flags):
            guest.do("run 1")
            receiver.wait("owner", ticks=1)
            assert not receiver.of(INSTANCE)


def test_text_has_only_vms(receiver: Receiver) -> None:
    watcher = Watcher("--text")
    try:
        with small_guest(name="in-text") as guest:
            watcher.wait_for("watching")
            guest.do("make", "run 1")
            assert watcher.process.stdout is not None
            for line in watcher.process.stdout:
                assert INSTANCE not in line
                if "in-text  io" in line:
                    break
    finally:
        watcher.close()


def test_the_docs_list_its_series() -> None:
    page = (
        (ROOT / "docs" / "attach.md").read_text().partition("\n## Its own metrics\n")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| `(\w+)(?:\{(\w+)=([\w|\\]+)\})?` \| (\w+) \|", page, re.MULTILINE)
    described = {
        (name, ((label, value),) if label else (), kind)
        for name, label, values, kind in rows
        for value in values.split(r"\|")
    }
    assert described == {(one.name, one.labels, one.kind) for one in SERIES}


# --- what it counts ------------------------------------------------------------------------------


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[StoreSink]:
    """A sink whose store is away."""
    with select.epoll() as epoll, socket.socket(socket.AF_UNIX) as away:
        away.bind(str(tmp_path / "away"))
        sink = StoreSink(epoll, UnixAddress(str(tmp_path / "away")), "away")
        yield sink
        sink.close()


def test_ticks_that_no_store_will_have_are_counted(sink: StoreSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "MAX_ENDED", 1)
    sessions = [sink.begin(Header(f"vm-{number}", 1, (), 1000, SERIES[:1])) for number in range(3)]
    assert sink.lost_ticks == Counter()
    for t_ms in range(2, 612):
        sessions[0].tick(Tick(t_ms, bytes(8)))
    sessions[1].tick(Tick(2, bytes(8)))
    assert sink.lost_ticks["backlog"] == 10
    sessions[1].end(End("gone", 2))
    assert sink.waiting == 1
    sessions[0].end(End("gone", 611))
    assert sink.lost_ticks == Counter(backlog=10, given_up=1)
    sessions[2].end(End("gone", 2))
    assert sink.lost_ticks == Counter(backlog=10, given_up=601)
    assert sink.waiting == 1


class Counts(NamedTuple):
    """A fake of all objects from which SelfMetrics reads."""

    overruns: int = 3
    lost_ticks: dict[str, int] = {"backlog": 5, "given_up": 6, "refused": 7}  # noqa: RUF012
    waiting: int = 8
    reported: tuple[Report, ...] = ()

    def lost(self) -> int:
        return 9

    def reports(self) -> list[Report]:
        return list(self.reported)


def values_by_series(source: SelfMetrics) -> dict[str, float]:
    return dict(zip(map(str, source.series), source.values(NOW), strict=True))


def test_its_values_are_the_counts() -> None:
    reports = tuple(Report() for _ in range(4))
    counts = Counts(reported=reports)
    source = SelfMetrics(Tally(1, 2, 4, 0.25), counts, counts, counts, counts)  # type: ignore[arg-type]  # a fake
    expected = {
        'attach_lives_total{event="begin"}': 1,
        'attach_lives_total{event="end"}': 2,
        "attach_overruns_total": 3,
        'attach_lost_ticks_total{reason="backlog"}': 5,
        'attach_lost_ticks_total{reason="given_up"}': 6,
        'attach_lost_ticks_total{reason="refused"}': 7,
        "attach_lost_exits_total": 0,  # they were lost before the watcher's start
        "attach_vms": 4,
        "attach_waiting_sessions": 8,
        "attach_tick_lag_ns": 0.25e9,
        'attach_adapters{state="answering"}': 0,
        'attach_adapters{state="silent"}': 4,
        'attach_adapters{state="failing"}': 0,
    }
    found = values_by_series(source)
    assert {name: found[name] for name in expected} == expected
    assert tuple(source.series) == SERIES
    assert not any(map(math.isnan, found.values()))
    reports[0].reading = reports[1].reading = Reading({})
    reports[2].refused = "it hangs", ""
    values_by_series(source)
    reports[0].reading = Reading({})
    found = values_by_series(source)
    states = [found[f'attach_adapters{{state="{state}"}}'] for state in ("answering", "silent", "failing")]
    assert states == [1, 2, 1]
    source.begin_anew()
    assert not any(values_by_series(source)[str(one)] for one in SERIES[:6])
    source.close()


def test_series_without_counts_are_left_out() -> None:
    counts = Counts()
    source = SelfMetrics(Tally(), counts, counts, None)  # type: ignore[arg-type]  # a fake
    assert {one.name for one in SERIES} - {one.name for one in source.series} == {
        "attach_lost_exits_total",
        "attach_adapters",
    }
    assert len(values_by_series(source)) == len(source.series)
    source.close()
