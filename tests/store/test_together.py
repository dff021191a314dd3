"""Stretches of many slabs looked at together: the same rows as each slab gives by itself, or none."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring_model import COUNTS, LEVEL, T0, header, tick, ticks

from rondo_tools.store.reader import Session, Store
from rondo_tools.store.slab import Slab, pack_row
from rondo_tools.store.tiers import parse_tiers
from rondo_tools.store.together import Stretch, rows_of
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import Tick

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:80s,5s:4m,20s:10m")
NOW = T0 + 100_000


def write(path: Path, instance: str, some: list[Tick]) -> Session:
    with StoreWriter(path, TIERS) as store:
        session = store.open(header(PAIR, instance))
        session.ring.append(some)
        session.close()
    (found,) = (one for one in Store(path).sessions() if one.instance == instance)
    return found


def listed(rows: object) -> list[tuple[int, bytes]]:
    t_ms, values, skipped = rows  # type: ignore[misc]
    assert skipped == 0
    return list(zip(t_ms.tolist(), (row.tobytes() for row in values), strict=True))


@pytest.mark.heavy
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_what_it_says_is_what_each_session_says(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """With rings that are empty, young, full, with gaps, silent, and with clocks that are ahead."""
    path = tmp_path_factory.mktemp("store")
    after_ms = {}
    for number in range(data.draw(st.integers(1, 5))):
        seconds = data.draw(st.lists(st.integers(-200, 30), max_size=40, unique=True).map(sorted))
        if data.draw(st.booleans()):
            seconds = list(range(-120, data.draw(st.integers(-30, 3))))
        some = [tick(NOW + 1000 * at, float(at), float(-at)) for at in seconds]
        session = write(path, f"vm-{number}", some)
        after_ms[session] = NOW - 1000 * data.draw(st.integers(0, 25))
    found = Store(path).new_rows(after_ms, NOW + 5000)
    for session, time_ms in after_ms.items():
        everything = session.rows(0, time_ms)
        if session in found:
            assert listed(found[session]) == listed(everything.between(0, NOW + 4000))
        else:  # only for a reason
            assert (
                not everything.t_ms.size
                or everything.t_ms[-1] >= NOW + 4000
                or NOW + 5000 - time_ms > TIERS[0].span_ms // 4
            )


def test_nothing_is_said_of_any_where_one_row_is_not_whole(path: Path) -> None:
    sessions = [write(path, f"vm-{number}", ticks(30, T0 + 70_000, width=2)) for number in range(3)]
    after_ms = dict.fromkeys(sessions, NOW - 5000)
    assert [rows.t_ms.size for rows in Store(path).new_rows(after_ms, NOW + 3000).values()] == [4, 4, 4]
    slot = (NOW - 2000) // 1000 % TIERS[0].slots
    good = pack_row(NOW - 2000, struct.pack("<2d", 1.0, 2.0))
    stray = pack_row(NOW - 3000, struct.pack("<2d", 1.0, 2.0))
    for wrong in (good[:-9] + b"torn" + good[-5:], stray):
        with Slab.open(sessions[1].path / "tier_0.slab", writable=True) as slab:
            slab.write(slot, wrong)
        assert Store(path).new_rows(after_ms, NOW + 3000) == {}
        assert sessions[1].rows(0, NOW - 5000).t_ms.tolist() == [NOW - 4000, NOW - 3000, NOW - 1000]
    with Slab.open(sessions[1].path / "tier_0.slab", writable=True) as slab:
        slab.write(slot, good)
    assert len(Store(path).new_rows(after_ms, NOW + 3000)) == 3


@pytest.mark.parametrize(
    ("after_s", "before_s", "size"),
    [(160, 175, 9), (150, 167, None), (60, 76, None)],
    ids=["all there is", "there is more", "a later lap"],
)
def test_whether_a_stretch_is_all(path: Path, after_s: int, before_s: int, size: int | None) -> None:
    session = write(path, "vm-1", ticks(170, width=2))
    stretch = session.stretch(T0 + 1000 * after_s, T0 + 1000 * before_s)
    assert stretch is not None
    (rows,) = rows_of([stretch], TIERS[0], 2)
    assert (rows and rows.t_ms.size) == size


def test_a_session_with_a_slab_that_cannot_be_read_is_left_to_whoever_asks_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = [write(path, f"vm-{number}", ticks(30, T0 + 70_000, width=2)) for number in range(2)]
    (sessions[0].path / "tier_0.slab").write_bytes(b"junk")
    with caplog.at_level(logging.DEBUG):
        assert list(Store(path).new_rows(dict.fromkeys(sessions, NOW - 5000), NOW + 3000)) == [sessions[1]]


def test_no_stretch_at_all() -> None:
    assert rows_of([Stretch(0, 5, b"")], TIERS[0], 2)[0] is not None
    assert rows_of([], TIERS[0], 2) == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"
