"""The roll-up of format 2 against a plain Python loop, bit for bit, in pieces of any size."""

from __future__ import annotations

import math
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.format.rollup import Ticks, Windows, coarse_rows
from rondo_tools.store.format.schema import AVG, LAST, MAX, MIN, Schema, schema_of, union

INTERVAL_MS = 10_000


def series(name: str, kind: str) -> Series:
    return Series(name, (), kind, "", "")


C1, C2, G1, G2 = (series(name, COUNTER if name[0] == "c" else GAUGE) for name in ("c1", "c2", "g1", "g2"))
SCHEMAS = tuple(map(schema_of, ((C1, G1, G2), (C1, G1, C2), (G2, C1))))
SIGNALLING = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
SPECIAL = (math.nan, SIGNALLING, 0.0, -0.0, math.inf, -math.inf, 1e308, 5e-324)
Tick = tuple[int, int, Schema, tuple[float, ...]]


@st.composite
def histories(draw: st.DrawFn) -> list[Tick]:
    """Ticks of a few sessions, each ascending in time, interleaved."""
    ticks: list[Tick] = []
    random = draw(st.randoms(use_true_random=False))  # simple numbers would add up exactly in any order

    def value() -> float:
        return random.choice(SPECIAL) if random.random() < 0.1 else random.uniform(-1e6, 1e6)

    for session in range(draw(st.integers(1, 3))):
        t_ms = draw(st.integers(1, 5_000_000_000_000))
        schema = draw(st.sampled_from(SCHEMAS))
        for step in draw(st.lists(st.integers(1, 2_500), max_size=40)):
            t_ms += step
            if draw(st.integers(0, 9)) == 0:
                schema = draw(st.sampled_from(SCHEMAS))
            ticks.append((session, t_ms, schema, tuple(value() for _ in range(schema.width))))
    order = draw(st.permutations([tick[0] for tick in ticks]))
    of_session = {session: iter([tick for tick in ticks if tick[0] == session]) for session in range(3)}
    return [next(of_session[session]) for session in order]


def brute_force(ticks: list[Tick]) -> dict[tuple[int, int], tuple[int, dict[tuple[str, str], float]]]:
    """The last time, and the value of each (series, aggregate), of each (session, window)."""
    windows: dict[tuple[int, int], list[Tick]] = {}
    for tick in ticks:
        windows.setdefault((tick[0], tick[1] // INTERVAL_MS), []).append(tick)
    made = {}
    for key, some in windows.items():
        row: dict[tuple[str, str], float] = {}
        for one in union([tick[2] for tick in some]).series:
            values = [
                value
                for _, _, schema, all_values in some
                for each, value in zip(schema.series, all_values, strict=True)
                if each == one and not math.isnan(value)
            ]
            if one.kind == COUNTER:
                row[one.name, LAST] = values[-1] if values else math.nan
                continue
            total = 0.0
            for value in values:
                total += value
            row[one.name, AVG] = total / len(values) if values else math.nan
            row[one.name, MIN] = min(values, default=math.nan)
            row[one.name, MAX] = max(values, default=math.nan)
        made[key] = some[-1][1], row
    return made


def as_arrays(ticks: list[Tick]) -> dict[Schema, Ticks]:
    found: dict[Schema, list[Tick]] = {}
    for tick in ticks:
        found.setdefault(tick[2], []).append(tick)
    return {
        schema: Ticks(
            np.array([tick[0] for tick in some], np.int64),
            np.array([tick[1] for tick in some], np.int64),
            np.array([tick[3] for tick in some], np.float64),
        )
        for schema, some in found.items()
    }


def bits(value: float) -> bytes:
    return b"NaN" if math.isnan(value) else struct.pack("<d", value + 0.0)


@given(histories(), st.data())
def test_pieces_of_any_size_equal_a_plain_loop_bit_for_bit(ticks: list[Tick], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ticks)), max_size=6)))
    windows = Windows(INTERVAL_MS)
    closed = []
    for begin, end in zip([0, *cuts], [*cuts, len(ticks)], strict=True):
        closed += windows.add(as_arrays(ticks[begin:end]))
        windows = Windows(INTERVAL_MS, windows.open)  # as from the carry
    closed += windows.close(np.arange(3))
    assert not windows.open

    found = {}
    for schema, groups in closed:
        rows = coarse_rows(groups, schema)
        for session, t_ms, values in zip(rows.session.tolist(), rows.t_ms.tolist(), rows.values, strict=True):
            key = session, t_ms // INTERVAL_MS
            assert key not in found, "one row for each window"
            named = {
                (schema.series[column.series].name, column.aggregate): bits(value)
                for column, value in zip(schema.coarse, values.tolist(), strict=True)
            }
            found[key] = t_ms, named
            raw = rows.values.view(np.uint64)[np.isnan(rows.values)]
            assert (raw == 0x7FF8000000000000).all(), "one NaN"
    expected = {
        key: (t_ms, {name: bits(value) for name, value in row.items()})
        for key, (t_ms, row) in brute_force(ticks).items()
    }
    assert found == expected


def test_union_keeps_the_first_schemas_order_and_appends_the_rest() -> None:
    first, second = schema_of((C1, G1, G2)), schema_of((G2, C2, C1))
    assert union([first, second]).series == (C1, G1, G2, C2)
    assert union([first, schema_of((G2, C1))]) is first


def test_schemas_with_the_same_bytes_are_equal() -> None:
    packed = schema_of((C1, G1)).packed
    one, other = Schema((C1, G1), packed), Schema((C1, G1), bytes(bytearray(packed)))
    assert one == other
    assert {one: 1} == {other: 1}
    assert one != schema_of((C1, G2))
