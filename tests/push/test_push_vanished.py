"""A series that an instance loses gets a stale marker, wherever a stretch begins and ends."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from devtools.receivers.receiver import Receiver
from rondo_tools.catalog import COUNTER, Series
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push import stretch as module
from rondo_tools.push.batches import Batches
from rondo_tools.push.stretch import Stretch
from rondo_tools.push.vanished import LOOKBACK_MS
from rondo_tools.selector import parse_selector
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.schema import Schema
from tests.support.push.journal_maker import Maker, series
from tests.support.push.receivers import T0, TWO_SERIES, Scripted, fill, header, push_once, seconds

VM = ("vm", T0)
A, B, NONE = series("c1", "g1"), series("g1", "c2", "c3"), series("g2")
Marker = tuple[str, str, int]  # instance, series, time after T0


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def row(maker: Maker, key: tuple[str, int], schema: Schema, t_ms: int) -> None:
    maker.rows(key, schema, [T0 + t_ms], [[1.0] * schema.width])


def markers_of(stretch: Stretch, first: int = 0, *, wanted: str = "") -> list[Marker]:
    """All stale markers except those of ends, from slice `first` on."""
    selector = parse_selector(wanted) if wanted else None
    made = Batches(stretch, 0, lambda head: sent_labels(head, "job", {}), selector, 10_000)
    found = []
    for number in range(first, stretch.slices):
        one = stretch.slice(number)
        rows = {(one.session[at], t_ms) for at, t_ms in enumerate(one.t_ms.tolist()) if is_row(one, at)}
        of_rows = {(stretch.sessions[session].record.instance, t_ms) for session, t_ms in rows}
        for batch in made.of(one, 0):
            for block in batch.blocks:
                for labels in block.series_set.labels if math.isnan(block.values[0, 0]) else ():
                    name = dict(labels)["instance"], dict(labels)["__name__"]
                    if (name[0], int(block.t_ms[0])) in of_rows:
                        found.append((*name, int(block.t_ms[0]) - T0))
    return sorted(found)


def is_row(one: module.Slice, at: int) -> bool:
    """Whether the row has values; an end has none."""
    return not math.isnan(one.parts[int(one.part[at])][1][int(one.row[at]), 0])


def between(
    maker: Maker,
    begin: Position,
    end: Position,
    *,
    line: Mapping[str, int] | None = None,
    since_ms: int = 0,
) -> list[Marker]:
    with Stretch(maker.layout, begin, end, line=line, since_ms=since_ms) as stretch:
        return markers_of(stretch)


def test_a_series_that_the_new_schema_lacks_ends_with_its_first_tick(maker: Maker) -> None:
    for t_ms, schema in enumerate((A, A, B, B, A), 1):
        row(maker, VM, schema, t_ms)
    found = between(maker, maker.start(), maker.position())
    maker.close()
    assert found == [("vm", "c1", 3), ("vm", "c2", 5), ("vm", "c3", 5)]


@pytest.mark.parametrize("rotates", [False, True])
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("line", [None, {"vm": T0 + 1}])
def test_the_schema_before_the_stretch_counts(
    maker: Maker, rotates: bool, others: bool, line: dict[str, int] | None
) -> None:
    row(maker, VM, A, 1)
    if others:
        row(maker, ("vm-2", T0), NONE, 1)
    if rotates:
        maker.rotate()
        row(maker, ("vm-2", T0), NONE, 2)
    begin = maker.position()
    row(maker, VM, B, 3)
    found = between(maker, begin, maker.position(), line=line)
    maker.close()
    assert found == [("vm", "c1", 3)]


@pytest.mark.parametrize("rotates", [False, True])
def test_series_without_recent_samples_need_no_marker(maker: Maker, rotates: bool) -> None:
    row(maker, VM, A, 1)
    row(maker, ("vm-2", T0), NONE, 1)
    if rotates:
        maker.rotate()
        row(maker, ("vm-2", T0), NONE, 2)
    begin = maker.position()
    row(maker, VM, B, LOOKBACK_MS + 2)
    found = between(maker, begin, maker.position())
    maker.close()
    assert found == []


def test_a_first_delivery_ends_no_series_that_it_did_not_send(maker: Maker) -> None:
    row(maker, VM, A, 1)
    row(maker, VM, B, 2)
    row(maker, VM, A, 3)
    found = between(maker, maker.start(), maker.position(), since_ms=T0 + 1)
    maker.close()
    assert found == [("vm", "c2", 3), ("vm", "c3", 3)]


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param("killed", [("vm", "c1", 20)], id="killed: the next life's first tick ends it"),
        pytest.param("ended", [], id="ended: that was its marker"),
        pytest.param("lost later", [("vm", "c1", 20)], id="given up when the next life has begun"),
    ],
)
def test_a_life_whose_series_the_next_one_lacks(
    maker: Maker, end: str, expected: list[Marker], splits: bool
) -> None:
    row(maker, VM, A, 1)
    if end == "ended":
        maker.end(VM)
    begin = maker.position() if splits else maker.start()
    row(maker, ("vm", T0 + 10), B, 20)
    if end == "lost later":
        maker.position()
        if splits:
            assert between(maker, begin, maker.position()) == expected
            begin, expected = maker.position(), []
        maker.end(VM, "lost")
    row(maker, ("vm", T0 + 10), B, 21)
    found = between(maker, begin, maker.position())
    maker.close()
    assert found == (expected if splits or end != "lost later" else [])


def test_two_lives_at_once_do_not_end_one_another_with_each_tick(maker: Maker) -> None:
    row(maker, VM, A, 1)
    row(maker, ("vm", T0 + 1), B, 2)
    begin = maker.position()
    for t_ms in range(3, 9, 2):
        row(maker, VM, A, t_ms)
        row(maker, ("vm", T0 + 1), B, t_ms + 1)
    found = between(maker, begin, maker.position())
    maker.close()
    assert found == []


def test_a_selector_leaves_out_markers_too(maker: Maker) -> None:
    row(maker, VM, B, 1)
    row(maker, VM, A, 2)
    with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
        assert markers_of(stretch, wanted="c3") == [("vm", "c3", 2)]
    maker.close()


def test_a_process_that_continues_at_a_later_slice_knows_the_earlier_series(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_SAMPLES", 2)
    for second in range(1, 9):
        row(maker, VM, A if second < 5 else B, 1000 * second)
    for first in range(8):
        with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
            assert markers_of(stretch, first) == ([("vm", "c1", 5000)] if first <= 4 else [])
    maker.close()


@pytest.mark.parametrize("seed", range(30))
def test_markers_do_not_depend_on_where_stretches_begin(
    seed: int, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain loop: random sessions, schemas, rotations and cursors."""
    monkeypatch.setattr(module, "SLICE_SAMPLES", 60)
    chance = random.Random(seed)
    schemas = [A, B, NONE, series("c1", "g1", "g2")]
    written: dict[str, list[tuple[int, Schema]]] = {}
    cuts: list[Position] = []
    now = {(f"vm-{vm}", T0): 0 for vm in range(4)}
    for _ in range(80):
        key = chance.choice(list(now))
        now[key] += chance.choice((1, 500, 1000))
        schema = chance.choice(schemas)
        row(maker, key, schema, now[key])
        written.setdefault(key[0], []).append((now[key], schema))
        if chance.random() < 0.15:
            cuts.append(maker.position())
        if chance.random() < 0.1:
            maker.rotate()
    row(maker, ("last", T0), A, 1)
    positions = [maker.start(), *cuts, maker.position()]
    expected = [
        (instance, one.name, t_ms)
        for instance, rows in written.items()
        for (_, had), (t_ms, has) in pairwise(rows)
        for one in had.series
        if one not in has.series
    ]
    # Late rows of an instance are left out; here, sessions do not overlap.
    found = [marker for begin, end in pairwise(positions) for marker in between(maker, begin, end)]
    maker.close()
    assert sorted(found) == sorted(expected)


def test_a_receiver_holds_the_marker_once(tmp_path: Path) -> None:
    disk = Series("disk_total", (), COUNTER, "bytes", "Of a disk that goes away.")
    receiver = Receiver()
    fill(tmp_path, header(series=[*TWO_SERIES, disk]), seconds(3, width=3))
    push_once(tmp_path, Scripted(receiver))
    fill(tmp_path, header(), seconds(3, T0 + 3000))
    push_once(tmp_path, Scripted(receiver, ["unanswered"]))
    push_once(tmp_path, Scripted(receiver))
    [(_, samples)] = [
        (labels, samples) for labels, samples in receiver.samples.items() if ("__name__", disk.name) in labels
    ]
    assert [t_ms - T0 for t_ms, value in samples.items() if value == STALE_NAN] == [3000]
    assert len(samples) == 4
