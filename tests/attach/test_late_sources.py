"""Sources without series before the first answer, and series that two sources have."""

from __future__ import annotations

import math
import struct

from rondo_tools.attach.sources.base import Moment
from rondo_tools.attach.sources.readings import (
    BLOCK,
    DURATION,
    NETWORK,
    AdapterSource,
    Reading,
    Report,
    Spent,
)
from rondo_tools.attach.text import TextSession
from rondo_tools.attach.vm import LABELS_MS, Vm
from rondo_tools.catalog import CPU, Series
from rondo_tools.stream import End, Header, Tick

HEADER = Header("vm", 1_000, (), 1_000, ())
READS = BLOCK[0]
CPU_TIME = CPU[2]


class Fixed:
    """A source with series from the beginning."""

    series: tuple[Series, ...] = (CPU_TIME,)

    def values(self, _moment: Moment) -> tuple[float, ...]:
        return (0.5,)

    def begin_anew(self) -> None:
        pass


class Sent:
    """A sink and its session, which keep ticks as dictionaries."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.rows: list[dict[Series, float]] = []
        self.ends: list[End] = []

    def begin(self, header: Header) -> Sent:
        self.headers.append(header)
        return self

    def go_on(self, header: Header) -> None:
        self.headers.append(header)

    def begin_anew(self, end: End, header: Header) -> None:
        self.ends.append(end)
        self.headers.append(header)

    def tick(self, tick: Tick) -> None:
        series = self.headers[-1].series
        values = struct.unpack(f"<{len(series)}d", tick.values)
        self.rows.append(dict(zip(series, values, strict=True)))

    def end(self, end: End) -> None:
        self.ends.append(end)

    def dispatch(self, _fd: int, _events: int) -> bool:
        return False

    def turn(self) -> None:
        pass

    def timeout_s(self) -> float:
        return math.inf

    is_gone, unsent = False, 0

    def close(self) -> None:
        pass


def adapter(*, begins_at_0: bool = False) -> tuple[Report, AdapterSource]:
    report = Report()
    return report, AdapterSource("test", "blk_*", report, begins_at_0=begins_at_0)


def at(t_s: int) -> Moment:
    return Moment(t_s * 1000, 0.0, {})


def test_a_late_source_gets_a_header_of_the_same_session() -> None:
    report, source = adapter()
    sent = Sent()
    vm = Vm(HEADER, [Fixed()], sent, [source])
    vm.tick(at(2))
    report.reading = Reading({READS: 7}, {DURATION: Spent(7, 700)})
    vm.tick(at(3))
    vm.tick(at(4))
    report.reading = Reading({READS: 9}, {DURATION: Spent(9, 1100)})
    vm.tick(at(5))
    assert [header.series for header in sent.headers] == [(CPU_TIME,), (CPU_TIME, READS, DURATION)]
    assert {header.start_ms for header in sent.headers} == {1_000}
    assert [row.get(READS) for row in sent.rows] == [None, 7, 7, 9]  # a late answer: the last value
    assert math.isnan(sent.rows[2][DURATION])  # and no mean
    assert sent.rows[3][DURATION] == 200


def test_counters_can_begin_at_0() -> None:
    report, source = adapter(begins_at_0=True)
    sent = Sent()
    vm = Vm(HEADER, [], sent, [source])
    for t_s, reads in ((2, 100), (3, 103)):
        report.reading = Reading({READS: reads})
        vm.tick(at(t_s))
    vm.begin_anew(1_000)
    report.reading = Reading({READS: 104})
    vm.tick(at(4))
    assert [row[READS] for row in sent.rows] == [0, 3, 1]


def test_a_series_of_two_sources_comes_from_the_first() -> None:
    (early, first), (late, second) = adapter(), adapter()
    sent = Sent()
    vm = Vm(HEADER, [], sent, [first, second])
    late.reading = Reading({READS: 20, BLOCK[1]: 21})
    vm.tick(at(2))
    early.reading = Reading({NETWORK[0]: 1, READS: 10})
    vm.tick(at(3))
    assert sent.rows == [{READS: 20, BLOCK[1]: 21}, {NETWORK[0]: 1, READS: 20, BLOCK[1]: 21}]


def waiting() -> tuple[Report, AdapterSource]:
    """A source that awaits labels, and knows one."""
    report, source = adapter()
    report.labels, report.awaits_labels = {"uuid": "u-1", "rack": "theirs"}, True
    return report, source


def test_a_session_begins_when_its_labels_are_known() -> None:
    report, source = waiting()
    sent = Sent()
    vm = Vm(HEADER._replace(labels=(("rack", "ours"),)), [Fixed()], sent, [source])
    report.reading = Reading({READS: 7})
    vm.tick(at(2))
    assert (sent.headers, sent.rows, vm.has_begun) == ([], [], False)
    report.labels, report.awaits_labels = {**report.labels, "nova_name": "web"}, False
    vm.tick(Moment(2_100, 0.0, {}))
    labels = (("nova_name", "web"), ("rack", "ours"), ("uuid", "u-1"))
    assert [header.labels for header in sent.headers] == [labels, labels]
    assert [header.series for header in sent.headers] == [(CPU_TIME,), (CPU_TIME, READS)]
    assert sent.rows == [{CPU_TIME: 0.5, READS: 7}] * 2
    report.labels = {"uuid": "another"}
    report.reading = Reading({READS: 8, BLOCK[1]: 1})
    vm.tick(at(4))
    assert sent.headers[-1].labels == labels


def test_missing_labels_delay_a_session_briefly() -> None:
    sent = Sent()
    vm = Vm(HEADER, [Fixed()], sent, [waiting()[1]])
    for t_ms in (HEADER.start_ms + 1, HEADER.start_ms + LABELS_MS - 1):
        vm.tick(Moment(t_ms, 0.0, {}))
    assert sent.headers == []
    vm.tick(Moment(HEADER.start_ms + LABELS_MS, 0.0, {}))
    assert len(sent.rows) == 3
    assert dict(sent.headers[0].labels)["uuid"] == "u-1"


def test_an_ending_session_has_the_known_labels() -> None:
    ended, anew = Sent(), Sent()
    Vm(HEADER, [Fixed()], ended, [waiting()[1]]).end(Moment(1_100, 0.0, {}), "gone")
    assert (len(ended.rows), ended.ends) == (1, [End("gone", 1_100)])
    vm = Vm(HEADER, [Fixed()], anew, [waiting()[1]])
    vm.begin_anew(500)
    assert [header.start_ms for header in anew.headers] == [HEADER.start_ms, 500]
    for sent in (ended, anew):
        assert all(dict(header.labels)["uuid"] == "u-1" for header in sent.headers)


def test_a_continued_session_keeps_its_labels() -> None:
    sent = Sent()
    Vm(HEADER._replace(labels=(("vmm", "qemu"),)), [Fixed()], sent, [waiting()[1]], has_labels=True)
    assert [header.labels for header in sent.headers] == [(("vmm", "qemu"),)]


def test_text_continues_over_a_change_of_series() -> None:
    lines: list[str] = []
    session = TextSession(HEADER._replace(series=(CPU_TIME,)), lines)
    session.tick(Tick(2_000, struct.pack("<d", 5.0)))
    session.go_on(HEADER._replace(series=(READS, CPU_TIME)))
    session.tick(Tick(3_000, struct.pack("<2d", 1.0, 5.5)))
    assert "cpu 500 %" in lines[1]
    assert "cpu 50 %" in lines[2]
