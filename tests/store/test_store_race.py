"""A reader in a tight loop beside a rondo-store at full speed: nothing torn is served, nothing missed.

Until the rings have gone round and the store was read some times; `make bench` does the same for a minute.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
from bench_race import BEGIN_MS, Counts, look, messages, race

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.ingest import Ingest
from rondo_tools.store.reader import Store
from rondo_tools.store.slab import HEADER_SIZE
from rondo_tools.store.writer import StoreWriter


@pytest.mark.parametrize("seconds", [4, pytest.param(120, marks=pytest.mark.long)])
def test_a_whole_store_read_while_it_is_written_at_full_speed(tmp_path: Path, seconds: int) -> None:
    counts = race(tmp_path, seconds, ticks_each=2 * 600, passes=5)
    assert counts.passes > 5
    assert counts.ticks > 4 * 600  # the rings went round
    assert (counts.wrong, counts.missed) == (0, 0), counts


def test_the_race_sees_a_row_that_is_wrong_and_one_that_is_missing(tmp_path: Path) -> None:
    header = stream.Header("vm-0", BEGIN_MS, (), 1000, SERIES)
    with StoreWriter(tmp_path) as store:
        ingest = Ingest(store)
        ingest.feed(stream.encode(header) + messages(0, 650))
        ingest.close()
    (seen,) = Store(tmp_path).sessions()
    closed_ms = BEGIN_MS + 649_000

    def looked() -> tuple[int, int]:
        counts = Counts()
        look(seen, closed_ms, counts)
        return counts.wrong, counts.missed

    assert looked() == (0, 0)
    slab = seen.path / "tier_0.slab"
    at = HEADER_SIZE + 500 * (16 + 8 * len(SERIES))
    good = slab.read_bytes()
    row = bytearray(good[at : at + 16 + 8 * len(SERIES)])
    slab.write_bytes(good[:at] + bytes(len(row)) + good[at + len(row) :])
    # Missed in tier 0, once as all read it and once as a push does; its windows were rolled up before.
    assert looked() == (0, 2)
    row[8] ^= 1
    row[-4:] = crc32(row[:-4]).to_bytes(4, "little")  # whole, and wrong
    slab.write_bytes(good[:at] + row + good[at + len(row) :])
    assert looked()[0] > 0
