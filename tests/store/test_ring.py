"""The ring: whatever the pieces in which ticks come, the slabs come out the same, to the byte."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_model import COUNTS, LEVEL, T0, header, slabs, tick, ticks

from rondo_tools.catalog import SERIES, Series
from rondo_tools.errors import StoreError
from rondo_tools.store.block import Block
from rondo_tools.store.ring import Ring
from rondo_tools.store.slab import Slab, pack_row
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, parse_tiers
from rondo_tools.stream import Tick

PAIR = (COUNTS, LEVEL)
SMALL = parse_tiers("1s:40s,5s:2m,20s:10m")
HOUR, WEEK = 3_600_000, 604_800_000


def files(folder: Path, tiers: Sequence[Tier]) -> list[bytes]:
    return [(folder / f"tier_{number}.slab").read_bytes() for number in range(len(tiers))]


def block(batch: Sequence[Tick]) -> Block:
    values = [np.frombuffer(one.values, "<f8") for one in batch] or np.empty((0, len(PAIR)))
    return Block(np.array([one.t_ms for one in batch], np.int64), np.array(values))


def check(
    folder: Path,
    tiers: tuple[Tier, ...],
    series: tuple[Series, ...],
    all_ticks: Sequence[Tick],
    *,
    finished: bool = False,
) -> None:
    for number, (got, want) in enumerate(
        zip(files(folder, tiers), slabs(series, tiers, all_ticks, finished=finished), strict=True)
    ):
        assert got == want, f"tier {number}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


# --- any batching --------------------------------------------------------------------------------

gaps = st.sampled_from(
    [1, 130, 400, 999, 1000, 1000, 1000, 1001, 2000, 5000, 19_000, 20_000, 41_000, HOUR, WEEK]
)
late = st.sampled_from([0, -1, -300, -1000, -30_000])
times = st.lists(gaps | gaps | gaps | late, max_size=120).map(
    lambda steps: [max(1, T0 + sum(steps[: i + 1])) for i in range(len(steps))]
)
TIERS = [
    "1s:40s,5s:2m,20s:10m",
    "100ms:2s,1s:10s",
    "1s:7s",
    "250ms:50s,1s:1m,5s:2m,20s:3m",
    "500ms:20s,10s:1m",
]


@pytest.mark.heavy
@given(
    times,
    st.sampled_from(TIERS),
    st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), min_size=1),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_batches_give_the_same_slabs(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[int],
    spelled: str,
    batches: list[tuple[int, bool, bool]],
    finish: bool,
) -> None:
    """Batches of each size, over and over, some as a block, the ring closed and opened after some."""
    tiers, folder = parse_tiers(spelled), tmp_path_factory.mktemp("ring")
    everything = [tick(t_ms, float(i), i / 7) for i, t_ms in enumerate(times)]
    ring, at, dropped = Ring(folder, tiers, header(PAIR)), 0, 0
    try:
        while at < len(everything):
            for size, as_block, reopen in batches:
                batch = everything[at : at + size]
                dropped += ring.extend(block(batch)) if as_block else ring.append(batch)
                at += size
                if reopen:
                    ring.close()
                    ring = Ring(folder, tiers, header(PAIR))
        if finish:
            ring.finish()
    finally:
        ring.close()
    check(folder, tiers, PAIR, everything, finished=finish)
    kept = sum(t_ms > max(times[:i], default=0) for i, t_ms in enumerate(times))
    assert dropped == len(times) - kept


@pytest.mark.parametrize(
    ("spelled", "step_ms", "count"),
    [("1s:10m,10s:6h,5m:7d", 1000, 3000), ("100ms:1m,1s:10m,10s:6h", 100, 5000), ("1s:10s", 1000, 500)],
)
def test_tier_0_wraps_many_times(folder: Path, spelled: str, step_ms: int, count: int) -> None:
    tiers, rng = parse_tiers(spelled), random.Random(1)
    everything = ticks(count, step_ms=step_ms, width=2)
    ring, at = Ring(folder, tiers, header(PAIR)), 0
    while at < count:
        size = rng.choice((1, 7, 200, 2000))
        assert ring.extend(block(everything[at : at + size])) == 0
        at += size
    ring.close()
    check(folder, tiers, PAIR, everything)


def test_a_day_of_the_catalogue_with_gaps(folder: Path) -> None:
    everything: list[Tick] = []
    for begin_ms in (0, 700_000, HOUR, 25 * HOUR, WEEK + 1000, WEEK + HOUR, 3 * WEEK):
        everything += ticks(700, T0 + begin_ms)
    ring = Ring(folder, DEFAULT_TIERS, header())
    for at in range(0, len(everything), 450):
        ring.extend(block(everything[at : at + 450]))
    ring.finish()
    ring.close()
    check(folder, DEFAULT_TIERS, SERIES, sorted(everything), finished=True)


# --- what the attributes say ---------------------------------------------------------------------


def test_the_last_tick_of_a_slot_wins_and_late_ones_are_counted(folder: Path) -> None:
    given_ticks = [tick(T0 + ms, float(ms), 0.0) for ms in (0, 1000, 1400, 1400, 900, 1999, 1500, 2000)]
    for as_block in (False, True):
        for file in folder.iterdir():
            file.unlink()
        ring = Ring(folder, SMALL, header(PAIR))
        assert (ring.extend(block(given_ticks)) if as_block else ring.append(given_ticks)) == 3
        ring.close()
        with Slab.open(folder / "tier_0.slab") as slab:
            assert slab.read().t_ms.tolist() == [T0, T0 + 1999, T0 + 2000]
            assert slab.read().values[:, 0].tolist() == [0.0, 1999.0, 2000.0]


def test_closed_is_what_no_later_tick_can_replace(folder: Path) -> None:
    ring = Ring(folder, SMALL, header(PAIR))
    assert (ring.last_ms, ring.closed_through_ms) == (0, 0)
    for t_ms, closed_ms in [(0, None), (400, None), (1000, 400), (1500, 400), (1700, 400), (9000, 1700)]:
        ring.append([tick(T0 + t_ms, 1.0, 2.0)])
        assert ring.last_ms == T0 + t_ms
        assert ring.closed_through_ms == (0 if closed_ms is None else T0 + closed_ms)
        ring.close()
        ring = Ring(folder, SMALL, header(PAIR))  # and the slabs say the same
        assert (ring.last_ms, ring.closed_through_ms) == (T0 + t_ms, T0 + (closed_ms or -T0))
    ring.extend(block(ticks(5, T0 + 10_000, width=2)))
    assert ring.closed_through_ms == T0 + 13_000
    ring.finish()
    assert ring.closed_through_ms == T0 + 14_000
    ring.close()


def test_nothing_appended_nothing_finished(folder: Path) -> None:
    ring = Ring(folder, SMALL, header(PAIR))
    assert ring.append([]) == ring.extend(block([])) == 0
    ring.finish()
    ring.close()
    assert (ring.last_ms, ring.closed_through_ms) == (0, 0)
    check(folder, SMALL, PAIR, [])


# --- trouble -------------------------------------------------------------------------------------


def test_a_disk_that_is_full_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write may stop anywhere; the same ticks are given again until they are stored.

    What is behind a gap may stand where rows of the window stood that it closes, in part already when
    it is given again.
    """
    rng, pwrite = random.Random(1), os.pwrite
    everything = [one for i in range(20) for one in ticks(37, T0 + i * 100_000, width=2)]
    ring = Ring(folder, SMALL, header(PAIR))

    def moody(fd: int, data: bytes, at: int) -> int:
        if rng.random() < 0.4:
            pwrite(fd, bytes(data)[: rng.randrange(len(data))], at)
            raise OSError(28, "No space left on device")
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", moody)
    at = failures = 0
    while at < len(everything):
        batch = everything[at : at + rng.choice((1, 5, 60))]
        while True:
            try:
                ring.extend(block(batch)) if len(batch) > 5 else ring.append(batch)
                break
            except OSError:
                failures += 1
        assert ring.last_ms == batch[-1].t_ms
        at += len(batch)
    monkeypatch.undo()
    ring.close()
    assert failures > 50
    check(folder, SMALL, PAIR, everything)


def test_roll_ups_that_a_power_cut_lost_are_made_up_for(folder: Path) -> None:
    everything = ticks(75, width=2)  # the window from second 60 on is open
    ring = Ring(folder, SMALL, header(PAIR))
    ring.append(everything)
    ring.close()
    whole = files(folder, SMALL)
    with Slab.open(folder / "tier_1.slab", writable=True) as slab:
        slab.write(0, bytes(slab.row_size * slab.slots))
    with Slab.open(folder / "tier_2.slab", writable=True) as slab:
        slab.write((T0 + 40_000) // 20_000 % slab.slots, b"junk" * 5)
    Ring(folder, SMALL, header(PAIR)).close()
    # Tier 0 still holds the seconds from 35 on; of the windows from 40 on it holds all.
    for number, lost_ms in ((1, 40_000), (2, 0)):
        with Slab.open(folder / f"tier_{number}.slab") as slab:
            rows = slab.read()
        columns = 4
        size = 16 + 8 * columns
        stored = {pack_row(int(t), row.tobytes()) for t, row in zip(rows.t_ms, rows.values, strict=True)}
        before = {whole[number][64:][i : i + size] for i in range(0, len(whole[number]) - 64, size)}
        assert stored <= before
        kept = [t for t in rows.t_ms.tolist() if t >= T0 + lost_ms]
        step = SMALL[number].interval_ms
        assert kept == list(range(T0 + lost_ms + step - 1000, T0 + 60_000, step))
    assert files(folder, SMALL)[0] == whole[0]


def test_a_torn_newest_row_is_written_again(folder: Path) -> None:
    everything = ticks(50, width=2)
    ring = Ring(folder, SMALL, header(PAIR))
    ring.append(everything)
    ring.close()
    data = bytearray((folder / "tier_0.slab").read_bytes())
    size = 16 + 8 * len(PAIR)
    begin = 64 + everything[-1].t_ms // 1000 % 40 * size
    data[begin + 13 : begin + size] = bytes(size - 13)
    (folder / "tier_0.slab").write_bytes(data)
    ring = Ring(folder, SMALL, header(PAIR))
    assert ring.last_ms == everything[-2].t_ms
    assert ring.append(everything) == 49
    ring.close()
    check(folder, SMALL, PAIR, everything)


def test_slabs_of_another_shape_are_refused(folder: Path) -> None:
    Ring(folder, SMALL, header(PAIR)).close()
    before = set(Path("/proc/self/fd").iterdir())
    for tiers, series in [
        (parse_tiers("1s:50s,5s:2m,20s:10m"), PAIR),
        (SMALL, (LEVEL,)),
        (SMALL, (LEVEL, LEVEL)),
    ]:
        with pytest.raises(StoreError, match="does not fit the store's tiers"):
            Ring(folder, tiers, header(series))
    assert set(Path("/proc/self/fd").iterdir()) == before


# --- cost ----------------------------------------------------------------------------------------


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def test_no_session_costs_more_than_its_slabs(folder: Path) -> None:
    Ring(folder, DEFAULT_TIERS, header()).close()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_250_000
    for number, tier in enumerate(DEFAULT_TIERS):  # every slot of it
        with Slab.open(folder / f"tier_{number}.slab", writable=True) as slab:
            slab.write(0, b"\1" * (slab.row_size * tier.slots))
    assert on_disk(folder) <= 1_250_000


def test_a_session_of_45_seconds_costs_kilobytes(folder: Path) -> None:
    ring = Ring(folder, DEFAULT_TIERS, header())
    for one in ticks(45):
        ring.append([one])
    ring.finish()
    ring.close()
    assert on_disk(folder) <= 65_536
