"""A stretch of the journal: every row once, in the order that receivers accept."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from rondo_tools.push import stretch as module
from rondo_tools.push.stretch import SLICE_MS, Stretch, cut_times
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.layout import JOURNALS
from tests.support.push.journal_maker import Maker, series

T0 = 1_732_300_000_000
A, B = series("c1", "g1"), series("g1", "c2", "c3")
Row = tuple[str, int, tuple[tuple[str, float], ...]]
"""Instance, time, value by series; a marker has only NaN."""


def sent(stretch: Stretch) -> list[list[Row]]:
    """The rows of each slice, in sending order."""
    slices = []
    for number in range(stretch.slices):
        one = stretch.slice(number)
        rows: list[Row] = []
        for session, t_ms, part, row in zip(
            one.session.tolist(), one.t_ms.tolist(), one.part.tolist(), one.row.tolist(), strict=True
        ):
            schema, values = one.parts[part]
            named = tuple(
                (each.name, value) for each, value in zip(schema.series, values[row].tolist(), strict=True)
            )
            rows.append((stretch.sessions[session].record.instance, t_ms, named))
        slices.append(rows)
    return slices


def is_marker(row: Row) -> bool:
    return all(math.isnan(value) for _, value in row[2])


def test_late_rows_are_sent_in_the_order_of_time(tmp_path: Path) -> None:
    """Twenty VMs send their last 100 minutes, one after another, as after an outage of the store."""
    maker = Maker(tmp_path)
    for vm in range(20):
        times = [T0 + 10_000 * n for n in range(600)]
        maker.rows((f"vm-{vm}", T0), A, times, [(n, n / 2) for n in range(600)])
    with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
        slices = sent(stretch)
    maker.close()
    newest = 0
    for rows in slices:
        times = [t_ms for _, t_ms, _ in rows]
        assert max(times) - min(times) < SLICE_MS
        assert min(times) >= newest
        newest = max(times)
    assert sum(map(len, slices)) == 12_000


def test_a_slice_is_sorted_by_instance_then_by_time(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for n in range(3):
        for vm in ("b", "a"):
            maker.rows((vm, T0), A, [T0 + 1000 * n + 1], [(n, n)])
    with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
        [rows] = sent(stretch)
    maker.close()
    assert [row[:2] for row in rows] == [(vm, T0 + 1000 * n + 1) for vm in ("b", "a") for n in range(3)]


def test_damaged_rows_cost_no_others_of_their_series(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for second in range(3):
        at = maker.position().offset
        maker.rows(("vm", T0), A, [T0 + 1000 * second], [(second, second)])
        if second == 1:
            damaged_at = at + 60
    end = maker.position()
    maker.close()
    path = maker.layout.file(JOURNALS, 1)
    data = bytearray(path.read_bytes())
    data[damaged_at] ^= 1
    path.write_bytes(data)
    with Stretch(maker.layout, maker.start(), end) as stretch:
        assert [t_ms - T0 for rows in sent(stretch) for _, t_ms, _ in rows] == [0, 2000]


def test_an_end_is_a_marker_a_millisecond_after_the_last_tick(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.rows(("vm", T0), A, [T0 + 1], [(1, 1)])
    maker.rows(("vm", T0), B, [T0 + 2], [(1, 1, 1)])
    maker.end(("vm", T0), "lost")
    with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
        [rows] = sent(stretch)
    maker.close()
    assert [t_ms - T0 for _, t_ms, _ in rows] == [1, 2, 3]
    assert is_marker(rows[2])
    assert [name for name, _ in rows[2][2]] == ["g1", "c2", "c3"], "the series of its last schema"


def test_a_tick_takes_precedence_over_a_marker_of_its_time(tmp_path: Path) -> None:
    """A lost session continues."""
    maker = Maker(tmp_path)
    maker.rows(("vm", T0), A, [T0 + 1], [(1, 1)])
    maker.end(("vm", T0), "lost")
    maker.rows(("vm", T0), A, [T0 + 2], [(2, 2)])
    with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
        [rows] = sent(stretch)
    maker.close()
    assert [(t_ms - T0, is_marker((i, t_ms, v))) for i, t_ms, v in rows] == [(1, False), (2, False)]


def test_a_life_that_began_before_the_last_one_ended_gets_no_marker_between(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.rows(("vm", T0), A, [T0 + 10], [(1, 1)])
    maker.rows(("vm", T0 + 5), A, [T0 + 12], [(2, 2)])
    maker.end(("vm", T0))
    with Stretch(maker.layout, maker.start(), maker.position()) as stretch:
        [rows] = sent(stretch)
    maker.close()
    assert [t_ms - T0 for _, t_ms, _ in rows] == [10, 12]


def test_rows_not_later_than_their_instances_last_are_passed_over_and_counted(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.rows(("vm", T0), A, [T0 + 1000, T0 + 2000], [(1, 1)] * 2)
    begin = maker.position()
    maker.rows(("vm", T0 + 5), A, [T0 + 1500, T0 + 2500], [(2, 2)] * 2)
    with Stretch(maker.layout, begin, maker.position()) as stretch:
        one = stretch.slice(0)
        assert (one.t_ms - T0).tolist() == [2500]
        assert one.passed_over == 2
        assert stretch.line() == {"vm": T0 + 2500}
    with Stretch(maker.layout, begin, maker.position(), line={"vm": T0}) as stretch:
        assert (stretch.slice(0).t_ms - T0).tolist() == [1500, 2500]
    maker.close()


def test_a_first_delivery_passes_over_old_rows_except_the_last_minutes_of_ended_sessions(
    tmp_path: Path,
) -> None:
    maker = Maker(tmp_path)
    for vm in ("ended", "lives"):
        maker.rows((vm, T0), A, [T0 + 60_000 * n for n in range(1, 31)], [(n, n) for n in range(30)])
    maker.end(("ended", T0))
    now_ms = T0 + 40 * 60_000
    with Stretch(
        maker.layout, maker.start(), maker.position(), since_ms=now_ms - 900_000, span_ms=900_000
    ) as stretch:
        rows = [row for one in sent(stretch) for row in one]
    maker.close()
    minutes = {vm: [(t - T0) // 60_000 for i, t, _ in rows if i == vm] for vm in ("ended", "lives")}
    assert minutes == {"ended": [*range(16, 31), 30], "lives": [*range(26, 31)]}


def test_slices_begin_at_half_hours_and_at_every_million_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_SAMPLES", 100)
    samples = dict.fromkeys(range(1795, 1805), 30) | {4000: 500, 4001: 1}
    cuts = cut_times(samples)
    assert cuts == [1_795_000, 1_798_000, 1_800_000, 1_803_000, 4_000_000, 4_001_000, 4_002_000]
    assert cut_times({}) == []


@pytest.mark.parametrize("seed", range(40))
def test_everything_is_sent_once_and_in_order_from_any_two_positions(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain loop: random sessions, schemas, rotations, late rows, and a stretch cut anywhere."""
    monkeypatch.setattr(module, "SLICE_SAMPLES", 60)
    chance = random.Random(seed)
    maker = Maker(tmp_path)
    written: list[tuple[str, int]] = []
    positions: list[tuple[Position, int]] = []
    now = {(f"vm-{vm}", T0 + start): T0 + start for vm in range(3) for start in (0, 400_000)}
    for _ in range(60):
        key = chance.choice(list(now))
        schema = chance.choice((A, B))
        times = []
        for _ in range(chance.randint(1, 4)):
            now[key] += chance.choice((1, 1000, 60_000))
            times.append(now[key])
        maker.rows(key, schema, times, [[n] * schema.width for n in times])
        written += ((key[0], t_ms) for t_ms in times)
        positions.append((maker.position(), len(written)))
        if chance.random() < 0.1:
            maker.rotate()
    begin, first = chance.choice([(maker.start(), 0), *positions])
    end, last = chance.choice([one for one in positions if one[1] > first] or [positions[-1]])
    line: dict[str, int] = {}
    for instance, t_ms in written[:first]:
        line[instance] = max(line.get(instance, 0), t_ms)
    expected = {(instance, t_ms) for instance, t_ms in written[first:last] if t_ms > line.get(instance, 0)}
    with Stretch(maker.layout, begin, end) as stretch:
        slices = sent(stretch)
        again = sent(stretch)
        assert stretch.line() == {
            instance: max(t for name, t in written[:last] if name == instance) for instance in stretch.line()
        }
    maker.close()
    rows = [(instance, t_ms) for one in slices for instance, t_ms, _ in one]
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    assert [[row[:2] for row in one] for one in again] == [[row[:2] for row in one] for one in slices]
    for name, _ in now:
        times = [t_ms for instance, t_ms in rows if instance == name]
        assert times == sorted(times)
