"""Kill -9 at any moment, and damage on the disk: nothing wrong is ever served, nothing stored differs.

A real rondo-store is fed through a pipe, killed, and fed again from the start, as a producer does
that never heard that its ticks arrived.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_model import COUNTS, LEVEL, bits, header, roll_up, slab_bytes, slabs, ticks

from rondo_tools import stream
from rondo_tools.store.reader import Store
from rondo_tools.store.ring import Ring
from rondo_tools.store.slab import HEADER_SIZE
from rondo_tools.store.tiers import DEFAULT_TIERS, parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "bin" / "rondo-store")]
PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:2m,20s:10m")


def feed(path: Path, data: bytes, kill_after: int | None, delay: float = 0.0) -> int:
    """Feed a rondo-store; after so many bytes, and a moment, kill it. Returns its exit status."""
    with subprocess.Popen(
        [*PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(data[:kill_after])
            process.stdin.flush()
            if kill_after is None:
                process.stdin.close()
                return process.wait(60)
            time.sleep(delay)  # not to learn the time: to be killed at any moment
        finally:
            process.kill()
    return process.wait(60)


def test_killed_again_and_again_the_slabs_come_out_the_same(tmp_path: Path) -> None:
    path, rng = tmp_path / "store", random.Random(1)
    begin_ms = time.time_ns() // 1_000_000 - 5_000_000
    everything = ticks(3000, begin_ms) + ticks(1000, begin_ms + 3_600_000)
    whole = header(start_ms=begin_ms)
    end = End("poweroff", begin_ms + 4_700_000)
    data = b"".join(map(stream.encode, (whole, *everything, end)))
    stored = [0]
    for life in range(25):
        # Further with each life, so that kills fall on all of the stream and not on its beginning.
        feed(path, data, int(len(data) * (life + rng.random()) / 25), rng.random() * 0.01)
        for session in Store(path).sessions() if (path / "store.json").exists() else []:
            stored.append(int(session.rows().t_ms[-1:].max(initial=0)))
            assert stored[-1] >= stored[-2]
    assert len(set(stored)) > 10  # the kills fell where they should
    assert feed(path, data, None) == 0
    (session,) = Store(path).sessions()
    assert session.end == end
    found = [(session.path / f"tier_{number}.slab").read_bytes() for number in range(3)]
    assert found == slabs(whole.series, DEFAULT_TIERS, everything, finished=True)


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_every_single_write(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if killed before, in the middle of, and after each pwrite in turn; then fed from the start."""
    everything = [*ticks(65, width=2), *ticks(30, ticks(1)[0].t_ms + 90_000, width=2)]
    rng, pwrite = random.Random(seed), os.pwrite
    count = writes = 0

    def counting(fd: int, data: bytes, at: int) -> int:
        nonlocal count
        count += 1
        if count == writes:
            pwrite(fd, bytes(data)[: rng.randrange(len(data) + 1)], at)
            raise _KilledError
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", counting)
    expected = slabs(PAIR, TIERS, everything, finished=True)
    for writes in range(1, 10_000):  # `counting` looks at it
        folder = tmp_path / str(writes)
        folder.mkdir()
        killed, count = False, 0
        while True:
            ring = None
            try:
                ring = Ring(folder, TIERS, header(PAIR))
                for at in range(0, len(everything), 7):
                    ring.append(everything[at : at + 7])
                ring.finish()
                break
            except _KilledError:
                killed = True
            finally:
                if ring is not None:
                    ring.close()
        assert [(folder / f"tier_{number}.slab").read_bytes() for number in range(3)] == expected
        if not killed:
            break
    assert 30 < writes < 10_000


# --- damage --------------------------------------------------------------------------------------

damages = st.lists(
    st.tuples(
        st.integers(0, 2),  # the tier
        st.integers(0, 50_000),  # where in its rows
        st.sampled_from(["zero", "junk", "flip", "tail"]),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=6,
)


@given(st.integers(1, 150), damages)
@settings(max_examples=150, deadline=None)
def test_damage_is_never_served(
    tmp_path_factory: pytest.TempPathFactory, count: int, damage: list[tuple[int, int, str, bytes]]
) -> None:
    """Rows are lost by it, and windows may lack them; what is served is the truth about what is left."""
    path = tmp_path_factory.mktemp("damage") / "store"
    everything = ticks(count, width=2)
    with StoreWriter(path, TIERS) as store:
        session = store.open(header(PAIR))
        session.ring.append(everything)
        session.close()
    for tier, where, how, junk in damage:
        file = session.path / f"tier_{tier}.slab"
        data = bytearray(file.read_bytes())
        at = HEADER_SIZE + where % (len(data) - HEADER_SIZE)
        if how == "zero":
            data[at : at + len(junk)] = bytes(len(data[at : at + len(junk)]))
        elif how == "junk":
            data[at : at + len(junk)] = junk[: len(data) - at]
        elif how == "flip":
            data[at] ^= 1 << where % 8
        else:
            data[at:] = bytes(len(data) - at)
        file.write_bytes(data)
    (seen,) = Store(path).sessions()
    rows = seen.rows()
    true = {one.t_ms: one.values for one in everything}
    left = {t_ms: row.tobytes() for t_ms, row in zip(rows.t_ms.tolist(), rows.values, strict=True)}
    assert left.items() <= true.items()
    for tier in (1, 2):
        for t_ms, row in zip(
            (coarse := seen.rows(tier)).t_ms.tolist(), (one.tobytes() for one in coarse.values), strict=True
        ):
            window = [t for t in true if t // TIERS[tier].interval_ms == t_ms // TIERS[tier].interval_ms]
            # From all of the window, when it closed; or from what is left of it, now.
            assert (t_ms, row) in [
                (some[-1], bits(roll_up(PAIR, [struct.unpack("<2d", true[t]) for t in some])))
                for some in (window, [t for t in window if t in left])
                if some
            ]
    # And the writer goes on from there.
    with StoreWriter(path, TIERS) as store:
        again = store.open(header(PAIR))
        again.ring.append(everything[-1:])
        again.ring.append(ticks(3, everything[-1].t_ms + 40_000, width=2))
        again.close()
    assert seen.rows().t_ms[-3:].tolist() == [one.t_ms for one in ticks(3, everything[-1].t_ms + 40_000)]


def test_the_model_is_not_the_code(tmp_path: Path) -> None:
    """The comparisons above would see a difference of one bit in one row of one tier."""
    everything = ticks(50, width=2)
    ring = Ring(tmp_path, TIERS, header(PAIR))
    ring.append(everything)
    ring.close()
    wrong = [*everything[:7], everything[8]._replace(t_ms=everything[7].t_ms), *everything[8:]]
    for number in range(3):
        found = (tmp_path / f"tier_{number}.slab").read_bytes()
        assert found == slabs(PAIR, TIERS, everything)[number]
        if number > 0:
            assert found != slabs(PAIR, TIERS, wrong)[number]
            assert found != slab_bytes(TIERS[number], 4, [])
