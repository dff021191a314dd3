"""What docs/store.md says about time: ticks out of order, gaps, other intervals than the tier's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ring_model import COUNTS, LEVEL, NAN, T0, header, roll_up, slabs, tick, ticks

from rondo_tools import stream
from rondo_tools.errors import StreamError
from rondo_tools.store.ingest import MAX_AHEAD_MS, Ingest
from rondo_tools.store.reader import Session, Store
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End, Tick

PAIR = (COUNTS, LEVEL)
WEEK = 7 * 86_400_000
FAST = parse_tiers("100ms:1m,1s:10m,10s:6h")


def stored(
    path: Path, all_ticks: list[Tick], tiers: tuple[Tier, ...] = DEFAULT_TIERS, *, end: bool = False
) -> tuple[Session, Ingest]:
    """The session that came of a stream of these ticks."""
    now_ms = max((one.t_ms for one in all_ticks), default=T0)
    with StoreWriter(path, tiers) as store:
        ingest = Ingest(store, now_ms=lambda: now_ms)
        ingest.feed(b"".join(map(stream.encode, (header(PAIR), *all_ticks))))
        if end:
            ingest.feed(stream.encode(End("poweroff", now_ms)))
        ingest.close()
    (session,) = Store(path).sessions()
    return session, ingest


def check(session: Session, tiers: tuple[Tier, ...], all_ticks: list[Tick], *, finished: bool) -> None:
    found = [(session.path / f"tier_{number}.slab").read_bytes() for number in range(len(tiers))]
    assert found == slabs(PAIR, tiers, all_ticks, finished=finished)


def test_equal_and_earlier_ticks_are_passed_over_and_counted(tmp_path: Path) -> None:
    order = [0, 1000, 1000, 500, 3000, 2000, 2999, 3000, 3001]
    session, ingest = stored(tmp_path, [tick(T0 + at, at, at) for at in order])
    assert session.rows().t_ms.tolist() == [T0, T0 + 1000, T0 + 3001]
    assert (ingest.counts.stored, ingest.counts.late) == (4, 5)


def test_a_far_future_is_refused_and_does_not_make_the_present_late(tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as store:
        ingest = Ingest(store, now_ms=lambda: T0)
        far = [T0 + MAX_AHEAD_MS + 1, T0 + WEEK, stream.MAX_T_MS]
        for at in [T0, *far, T0 + 1000]:
            ingest.feed((b"" if at != T0 else stream.encode(header(PAIR))) + stream.encode(tick(at, 1, 1)))
        ingest.close()
    (session,) = Store(tmp_path).sessions()
    assert session.rows().t_ms.tolist() == [T0, T0 + 1000]
    assert (ingest.counts.ahead, ingest.counts.late) == (3, 0)


@pytest.mark.parametrize("t_ms", [b"\x00", b"\xff", b"\xd3" + struct.pack(">q", -86_400_000)])
def test_before_1970_is_no_time(tmp_path: Path, t_ms: bytes) -> None:
    message = b"\x92" + t_ms + b"\xc4\x10" + bytes(16)
    with StoreWriter(tmp_path) as store:
        ingest = Ingest(store)
        with pytest.raises(StreamError, match="not milliseconds between 1 and"):
            ingest.feed(stream.encode(header(PAIR)) + message)
        ingest.close()


def test_the_first_millisecond_is_one(tmp_path: Path) -> None:
    session, _ = stored(tmp_path, [tick(1, 1, 2), tick(1500, 3, 4)])
    assert session.rows().t_ms.tolist() == [1, 1500]


def test_a_gap_of_a_second_is_a_hole_and_no_value_is_made_up(tmp_path: Path) -> None:
    with_gap = [one for one in ticks(400, width=2) if one.t_ms != T0 + 7000]
    session, _ = stored(tmp_path, with_gap)
    assert T0 + 7000 not in session.rows().t_ms
    first = session.rows(1)
    rows = [(at * 1000.0, at * 1000 + 1 / 8) for at in range(10) if at != 7]
    assert first.t_ms[0] == T0 + 9000
    assert first.values[0].tolist() == roll_up(PAIR, rows)


def test_a_gap_of_a_week_takes_nothing_that_was_rolled_up(tmp_path: Path) -> None:
    everything = ticks(700, width=2) + ticks(700, T0 + WEEK - 3_600_000, width=2)
    session, _ = stored(tmp_path, everything)
    check(session, DEFAULT_TIERS, everything, finished=False)
    assert session.rows(2).t_ms[0] == T0 + 299_000
    # The window in which the first part stopped is there too, from what there was of it.
    assert T0 + 699_000 in session.rows(1).t_ms
    assert T0 + 699_000 in session.rows(2).t_ms


def test_a_producer_at_100_ms_in_tiers_of_a_second(tmp_path: Path) -> None:
    """The last of each second stays: of a counter nothing is lost, of a gauge nine of ten."""
    session, ingest = stored(tmp_path, ticks(3000, step_ms=100, width=2))
    assert session.rows().t_ms.tolist() == [T0 + at * 1000 + 900 for at in range(300)]
    assert ingest.counts.stored == 3000
    assert session.rows(1).values[0][0] == 99_000.0


def test_a_producer_at_100_ms_in_tiers_of_its_own(tmp_path: Path) -> None:
    everything = ticks(1300, step_ms=100, width=2)
    session, _ = stored(tmp_path, everything, FAST, end=True)
    check(session, FAST, everything, finished=True)
    assert session.rows().t_ms.size == 600
    tenths = [(at * 1000.0, at * 1000 + 1 / 8) for at in range(10)]
    assert session.rows(1).values[0].tolist() == roll_up(PAIR, tenths)


def test_a_producer_at_10_s(tmp_path: Path) -> None:
    everything = ticks(100, step_ms=10_000, width=2)
    session, _ = stored(tmp_path, everything)
    check(session, DEFAULT_TIERS, everything, finished=False)
    assert session.rows(1).t_ms.tolist() == [one.t_ms for one in everything]
    row = session.rows(1).values[4].tolist()
    assert row == [4000.0, 4000.125, 4000.125, 4000.125]  # the only one: average, least and most
    # Tier 0 holds ten minutes of seconds: sixty of these.
    assert session.rows().t_ms.size == 60


def test_a_tick_of_nothing_is_a_tick(tmp_path: Path) -> None:
    session, _ = stored(tmp_path, [tick(T0, NAN, NAN), tick(T0 + 1000, 1, NAN)])
    assert session.rows().t_ms.size == 2
    assert [str(value) for value in session.rows(1).values[0]] == ["1.0", "nan", "nan", "nan"]


def test_a_clock_set_back_is_another_session_or_silence(tmp_path: Path) -> None:
    """Within a session what is not past the last tick is passed over; a restart is one of its own."""
    back = T0 - 3_600_000
    session, ingest = stored(tmp_path, ticks(10, width=2) + ticks(5, back, width=2))
    assert (session.rows().t_ms.size, ingest.counts.late) == (10, 5)
    with StoreWriter(tmp_path) as store:
        again = Ingest(store, now_ms=lambda: T0)
        messages = (header(PAIR, start_ms=back), *ticks(5, back, width=2))
        again.feed(b"".join(map(stream.encode, messages)))
        again.close()
    assert [one.rows().t_ms.size for one in Store(tmp_path).sessions()] == [5, 10]
