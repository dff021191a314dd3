"""Roll-ups that are put off: windows close for all sessions at once, and nobody waits for that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ring_model import COUNTS, LEVEL, T0, header, slabs, ticks

from rondo_tools.store.reader import Store
from rondo_tools.store.ring import Ring
from rondo_tools.store.slab import Slab
from rondo_tools.store.sync import Syncer, parse_policy
from rondo_tools.store.tiers import parse_tiers
from rondo_tools.store.writer import SessionWriter, StoreWriter

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:2m,20s:10m")


def found(folder: Path) -> list[bytes]:
    return [(folder / f"tier_{number}.slab").read_bytes() for number in range(3)]


def test_a_window_is_owed_until_the_next_one_closes_at_the_latest(tmp_path: Path) -> None:
    everything = ticks(70, width=2)
    ring = Ring(tmp_path, TIERS, header(PAIR))
    for at, one in enumerate(everything):
        ring.append([one])
        assert ring.is_behind or at < 20 or at >= 40
        if at >= 40:  # the first window, at least
            with Slab.open(tmp_path / "tier_2.slab") as slab:
                assert slab.read().t_ms[0] == everything[19].t_ms
        if at == 65:
            ring.catch_up()
            assert not ring.is_behind
            assert found(tmp_path) == slabs(PAIR, TIERS, everything[:66])
    ring.close()
    assert found(tmp_path) == slabs(PAIR, TIERS, everything)


def test_behind_a_gap_nothing_is_owed(tmp_path: Path) -> None:
    everything = [*ticks(7, width=2), *ticks(3, T0 + 40_000, width=2)]
    ring = Ring(tmp_path, TIERS, header(PAIR))
    ring.append(everything)
    assert not ring.is_behind
    assert found(tmp_path) == slabs(PAIR, TIERS, everything)
    ring.close()


@pytest.mark.parametrize("count", range(19, 64))
def test_what_is_owed_is_seen_and_no_damage_and_made_up_for_after_a_kill(tmp_path: Path, count: int) -> None:
    everything = ticks(count, width=2)
    with StoreWriter(tmp_path, TIERS) as store:
        session = store.open(header(PAIR))
        session.ring.append(everything)
        (seen,) = Store(tmp_path).sessions()
        assert [seen.rows(tier).t_ms.tolist() for tier in (1, 2)] == [
            [one.t_ms for at, one in enumerate(everything) if at == count - 1 or (at + 1) % step == 0]
            for step in (5, 20)
        ]
        assert seen.findings() == []
        session.ring._slab.close()  # as a kill does: nothing is caught up with
        Ring(session.path, TIERS, header(PAIR)).close()
        assert found(session.path) == slabs(PAIR, TIERS, everything)


def many(store: StoreWriter, count: int) -> list[SessionWriter]:
    sessions = [store.open(header(PAIR, f"vm-{number}")) for number in range(count)]
    for session in sessions:
        session.ring.append(ticks(21, width=2))
        store.wrote(session)
    return sessions


def test_there_is_a_time_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreWriter(tmp_path, TIERS) as store:
        sessions = many(store, 10)
        now = iter(range(100))
        monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
        assert store.catch_up(3.5)  # each look at the clock is a second later
        assert [session.ring.is_behind for session in sessions] == [False] * 3 + [True] * 7
        sessions[4].close()  # which catches up
        assert store.catch_up(2.5)
        assert not store.catch_up(50)
        assert not any(session.ring.is_behind for session in sessions)
        monkeypatch.undo()
        for session in sessions:
            assert found(session.path) == slabs(PAIR, TIERS, ticks(21, width=2))
            session.close()


def test_a_roll_up_is_synced_in_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come after its ticks were synced, and no tick after it."""
    marked: list[str] = []
    with StoreWriter(tmp_path, TIERS, sync=parse_policy("1h")) as store:
        monkeypatch.setattr(Syncer, "mark", lambda _syncer, folder: marked.append(folder))
        (session,) = many(store, 1)
        marked.clear()
        assert not store.catch_up(50)
        assert marked == [session.folder]
        session.close()


def test_where_there_is_no_room_it_stays_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the tick that closes the next window is the one that cannot be stored."""
    everything = ticks(45, width=2)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with StoreWriter(tmp_path, TIERS) as store:
        (session,) = many(store, 1)
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", full)
        assert not store.catch_up(1)
        assert session.ring.is_behind
        monkeypatch.setattr(os, "pwrite", pwrite)
        session.ring.append(everything[21:40])
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            session.ring.append(everything[40:])
        monkeypatch.setattr(os, "pwrite", pwrite)
        session.ring.append(everything[40:])
        session.close()
        assert found(session.path) == slabs(PAIR, TIERS, everything)
