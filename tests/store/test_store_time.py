"""Time, by docs/store.md: ticks out of order, gaps, and intervals other than the tier's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.errors import StreamError
from rondo_tools.store.format.tiers import DEFAULT_TIERS, Tier, parse_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.keeper import MAX_AHEAD_MS
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Session, Store
from rondo_tools.stream import End, Tick
from tests.support.store.stream_model import (
    COUNTS,
    LEVEL,
    NAN,
    T0,
    check,
    header,
    roll_up,
    served,
    tick,
    ticks,
)
from tests.support.streams import encoded

PAIR = (COUNTS, LEVEL)
HOUR = 3_600_000
DAY = 24 * HOUR
FAST = parse_tiers("100ms:1m,1s:10m,10s:6h")


def stored(
    path: Path, all_ticks: list[Tick], tiers: tuple[Tier, ...] = DEFAULT_TIERS, *, end: bool = False
) -> tuple[Session, Intake]:
    """The session after a stream of these ticks."""
    now_ms = max((one.t_ms for one in all_ticks), default=T0)
    with OpenStore(path, tiers, now_ms=lambda: now_ms) as store:
        intake = Intake(store.keeper)
        intake.feed(encoded(header(PAIR), *all_ticks))
        if end:
            intake.feed(stream.encode(End("poweroff", now_ms)))
        intake.close()
        store.keeper.end_journal()
        store.keep_house()
    (session,) = Store(path).sessions()
    return session, intake


def test_equal_and_earlier_ticks_are_dropped_and_counted(tmp_path: Path) -> None:
    order = [0, 1000, 1000, 500, 3000, 2000, 2999, 3000, 3001]
    session, intake = stored(tmp_path, [tick(T0 + at, at, at) for at in order])
    assert session.rows().t_ms.tolist() == [T0, T0 + 1000, T0 + 3000, T0 + 3001]
    assert (intake.counts.stored, intake.counts.late) == (4, 5)


def test_a_tick_far_ahead_is_refused_and_later_ticks_are_stored(tmp_path: Path) -> None:
    with OpenStore(tmp_path, now_ms=lambda: T0) as store:
        intake = Intake(store.keeper)
        far = [T0 + MAX_AHEAD_MS + 1, T0 + 7 * DAY, stream.MAX_T_MS]
        for at in [T0, *far, T0 + 1000]:
            intake.feed((b"" if at != T0 else stream.encode(header(PAIR))) + stream.encode(tick(at, 1, 1)))
        intake.close()
    (session,) = Store(tmp_path).sessions()
    assert session.rows().t_ms.tolist() == [T0, T0 + 1000]
    assert (intake.counts.ahead, intake.counts.late) == (3, 0)


@pytest.mark.parametrize("t_ms", [b"\x00", b"\xff", b"\xd3" + struct.pack(">q", -86_400_000)])
def test_times_before_1970_are_refused(tmp_path: Path, t_ms: bytes) -> None:
    message = b"\x92" + t_ms + b"\xc4\x10" + bytes(16)
    with OpenStore(tmp_path) as store:
        intake = Intake(store.keeper)
        with pytest.raises(StreamError, match="not milliseconds between 1 and"):
            intake.feed(stream.encode(header(PAIR)) + message)
        intake.close()


def test_the_first_millisecond_is_one(tmp_path: Path) -> None:
    session, _ = stored(tmp_path, [tick(1, 1, 2), tick(1500, 3, 4)])
    assert session.rows().t_ms.tolist() == [1, 1500]


def test_a_gap_of_a_second_stays_a_gap(tmp_path: Path) -> None:
    with_gap = [one for one in ticks(400, width=2) if one.t_ms != T0 + 7000]
    session, _ = stored(tmp_path, with_gap)
    assert T0 + 7000 not in session.rows().t_ms
    first = session.rows(1)
    rows = [(at * 1000.0, at * 1000 + 1 / 8) for at in range(10) if at != 7]
    assert first.t_ms[0] == T0 + 9000
    assert first.values[0].tolist() == roll_up(PAIR, rows)


def test_a_gap_of_days_takes_no_space(tmp_path: Path) -> None:
    everything = ticks(700, width=2) + ticks(700, T0 + 6 * DAY, width=2)
    session, _ = stored(tmp_path, everything)
    check(session, everything, PAIR)


def test_ticks_older_than_the_last_tier_are_refused(tmp_path: Path) -> None:
    old, new = ticks(40, width=2), ticks(10, T0 + 8 * DAY, width=2)
    session, intake = stored(tmp_path, old + new)
    check(session, new, PAIR)
    assert (intake.counts.stored, intake.counts.expired, intake.refused) == (10, 40, {"expired": 40})


def test_every_tick_of_a_producer_at_100_ms_is_kept(tmp_path: Path) -> None:
    everything = ticks(3000, step_ms=100, width=2)
    session, _ = stored(tmp_path, everything)
    check(session, everything, PAIR)


def test_a_producer_at_100_ms_in_tiers_of_its_own(tmp_path: Path) -> None:
    everything = ticks(1300, step_ms=100, width=2)
    session, _ = stored(tmp_path, everything, FAST, end=True)
    check(session, everything, PAIR)
    tenths = [(at * 1000.0, at * 1000 + 1 / 8) for at in range(10)]
    assert session.rows(1).values[0].tolist() == roll_up(PAIR, tenths)


def test_a_producer_at_10_s(tmp_path: Path) -> None:
    everything = ticks(100, step_ms=10_000, width=2)
    session, _ = stored(tmp_path, everything)
    check(session, everything, PAIR)
    row = session.rows(1).values[4].tolist()
    assert row == [4000.0, 4000.125, 4000.125, 4000.125]  # the only one: average, least and most


def test_a_tick_without_values_is_a_tick(tmp_path: Path) -> None:
    session, _ = stored(tmp_path, [tick(T0, NAN, NAN), tick(T0 + 1000, 1, NAN)])
    assert session.rows().t_ms.size == 2
    assert [str(value) for value in session.rows(1).values[0]] == ["1.0", "nan", "nan", "nan"]


def test_a_clock_set_back_is_another_session_or_silence(tmp_path: Path) -> None:
    """In a session, ticks not later than the last one are dropped; a restart begins another session."""
    back = T0 - HOUR
    session, intake = stored(tmp_path, ticks(10, width=2) + ticks(5, back, width=2))
    assert (len(served(session)), intake.counts.late) == (10, 5)
    with OpenStore(tmp_path, now_ms=lambda: T0) as store:
        again = Intake(store.keeper)
        again.feed(encoded(header(PAIR, start_ms=back), *ticks(5, back, width=2)))
        again.close()
    assert [one.rows().t_ms.size for one in Store(tmp_path).sessions()] == [5, 10]
