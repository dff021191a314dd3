"""The intake of a stream into the keeper: refusals, counts, and waiting."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rondo_tools import stream
from rondo_tools.errors import StoreError, StreamError
from rondo_tools.store.folder import Folder
from rondo_tools.store.intake import Counts, Intake
from rondo_tools.store.keeper import MAX_GATHERED, Keeper
from tests.support.store.journal_truth import NOW_MS, SERIES, START_MS, Disk, Model, Reference, read_journals
from tests.support.store.keeper_host import end, header, keeper, ticks, times

WEEK_MS = 604_800_000


def at(*t_ms: int) -> bytes:
    return b"".join(stream.encode(stream.Tick(one, bytes(16))) for one in t_ms)


@pytest.mark.parametrize("many", [1, 40])  # single ticks, and a block
def test_ticks_ahead_of_the_clock_and_older_than_the_store_are_refused(tmp_path: Path, many: int) -> None:
    messages: list[str] = []
    counts = Counts()
    old = [NOW_MS - WEEK_MS - many + n for n in range(many)]
    good = [NOW_MS - WEEK_MS + n for n in range(many)]
    new = [NOW_MS + 600_000 - many + 1 + n for n in range(many)]
    ahead = [NOW_MS + 600_001 + n for n in range(many)]
    with keeper(tmp_path) as kept:
        one, other = Intake(kept, counts, messages.append), Intake(kept, counts, messages.append)
        one.feed(header(start_ms=1) + at(*old, *good, *new, *ahead))
        other.feed(header("other"))
        other.feed(at(*ahead))
        kept.flush()
    assert [t_ms for t_ms, _, _ in read_journals(tmp_path).rows["vm-1", 1]] == good + new
    assert (one.refused_ahead, one.refused_expired) == (many, many)
    assert one.refused == {"ahead": many, "expired": many}
    assert other.refused == {"ahead": many}
    assert (counts.stored, counts.samples, counts.ahead, counts.expired, counts.late) == (
        2 * many, 4 * many, 2 * many, many, 0,
    )  # fmt: skip
    assert len(messages) == 2
    assert "refused" in messages[0]
    assert "10 min ahead" in messages[1]


def test_the_latest_possible_time_is_not_ahead(tmp_path: Path) -> None:
    with Keeper(Folder(tmp_path), now_ms=lambda: NOW_MS, latest_ms=lambda: NOW_MS + 3_600_000) as kept:
        intake = Intake(kept)
        intake.feed(header() + at(NOW_MS + 4_200_000, NOW_MS + 4_200_001))
        kept.flush()
    assert len(times(tmp_path)) == intake.refused_ahead == 1


@pytest.mark.parametrize("many", [1, 40])
def test_resent_ticks_are_late_and_never_refused(tmp_path: Path, many: int) -> None:
    counts, begin = Counts(), NOW_MS - WEEK_MS
    data = header(start_ms=1) + at(*range(begin, begin + many))
    now = [NOW_MS]
    with Keeper(Folder(tmp_path), now_ms=lambda: now[0]) as kept:
        Intake(kept, counts).feed(data)
        now[0] += 1000
        again = Intake(kept, counts)
        again.feed(data + end() + data)
        kept.flush()
    assert (counts.stored, counts.late, counts.expired, again.refused_expired) == (many, 2 * many, 0, 0)
    assert len(read_journals(tmp_path).rows["vm-1", 1]) == many


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_stored_like_single_ticks(tmp_path: Path, seed: int) -> None:
    chance, model = random.Random(seed), Model()
    t_ms, at_ms = [], START_MS
    for _ in range(300):
        at_ms += chance.choice((1000, 1000, 1000, 0, -5000, 20))
        t_ms.append(at_ms)
    data = header() + at(*t_ms)
    counts = Counts()
    Reference(model).feed(data)
    with keeper(tmp_path) as kept:
        Intake(kept, counts).feed(data)
        kept.flush()
    model.check(read_journals(tmp_path))
    assert counts.stored + counts.late == 300


def test_ticks_before_an_error_are_stored(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        with pytest.raises(StreamError):
            Intake(kept).feed(header() + ticks(1, 30) + b"\xc1" + ticks(30, 40))
        kept.flush()
    assert times(tmp_path) == list(range(1, 30))


def test_input_that_ends_inside_a_message(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        intake = Intake(kept)
        intake.feed(header() + ticks(1, 3)[:-1])
        assert intake.is_waiting
        with pytest.raises(StreamError, match="inside a message"):
            intake.end_of_input()
        kept.flush()
    assert times(tmp_path) == [1]


def test_a_session_continues_with_other_series(tmp_path: Path) -> None:
    counts = Counts()
    with keeper(tmp_path) as kept:
        intake = Intake(kept, counts)
        intake.feed(header() + ticks(1, 3) + header(kind=1) + ticks(3, 5, 1) + end())
        intake.feed(header("vm-2") + ticks(1, 3) + end())
        kept.flush()
    assert (counts.sessions, counts.stored) == (2, 6)


def test_a_schema_change_waits_for_disk_space(tmp_path: Path, install: Callable[[Disk], None]) -> None:
    full = [True]
    kept = keeper(tmp_path)
    install(Disk(lambda *_: "fail" if full[0] else None, random.Random(1)))
    intake = Intake(kept)
    intake.feed(header() + ticks(1, 3))
    for again in (False, True):
        with pytest.raises(OSError) as caught:
            intake.store() if again else intake.feed(header(kind=1) + ticks(3, 5, 1) + end())
        assert caught.value.errno == errno.ENOSPC
        assert intake.is_pending
    full[0] = False
    intake.store()
    assert not intake.is_pending
    kept.close()
    found = read_journals(tmp_path)
    assert [(len(series), t_ms) for t_ms, series, _ in found.rows["vm-1", START_MS]] == [
        (len(SERIES[kind]), START_MS + 1000 * n) for n, kind in ((1, 0), (2, 0), (3, 1), (4, 1))
    ]
    assert found.state_of(("vm-1", START_MS)) == "poweroff"


@pytest.mark.heavy
def test_a_large_turn_is_written_in_parts(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        intake = Intake(kept)
        start_ms = NOW_MS - WEEK_MS
        intake.feed(header(start_ms=start_ms))
        n, piece = 1, b""
        while kept.newest_position() is None:
            piece = ticks(n, n + 2000, start_ms=start_ms)
            intake.feed(piece)
            n += 2000
            assert kept.gathered <= MAX_GATHERED + len(piece)
    assert times(tmp_path, start_ms=start_ms) == list(range(1, n))


def test_a_refused_header_ends_only_its_own_stream(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        good = Intake(kept)
        good.feed(header() + ticks(1, 3))
        with pytest.raises(StoreError, match="another interval"):
            Intake(kept).feed(header(interval_ms=7))
        good.feed(ticks(3, 5))
        kept.flush()
    assert times(tmp_path) == [1, 2, 3, 4]


def test_infinities_and_nans_keep_their_bits(tmp_path: Path) -> None:
    values = np.array([0x7FF8000000000001, 0xFFF0000000000000], "<u8").tobytes()
    with keeper(tmp_path) as kept:
        Intake(kept).feed(header() + stream.encode(stream.Tick(START_MS + 1000, values)))
        kept.flush()
    assert read_journals(tmp_path).rows["vm-1", START_MS][0][2] == values
