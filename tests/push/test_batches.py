"""Batches: each row of a slice once, for any size of a request and any first row."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rondo_tools.prom.labels import sent_labels
from rondo_tools.push.batches import Batches
from rondo_tools.push.model import Batch
from rondo_tools.push.stretch import Stretch
from rondo_tools.selector import parse_selector
from tests.support.push.journal_maker import Maker, series

T0 = 1_732_300_000_000
A, B = series("c1", "g1"), series("g1", "c2", "c3")


def a_stretch(maker: Maker, seed: int) -> Stretch:
    chance = random.Random(seed)
    for n in range(60):
        schema = chance.choice((A, B))
        maker.rows((f"vm-{chance.randrange(3)}", T0), schema, [T0 + 1000 * n + 1], [[n] * schema.width])
    return Stretch(maker.layout, maker.start(), maker.position())


def samples_of(batches: list[Batch]) -> list[tuple[str, str, int, str]]:
    """(instance, name, time, value) of all samples, sorted."""
    return sorted(
        (dict(labels)["instance"], dict(labels)["__name__"], t_ms, str(values[at]))
        for batch in batches
        for block in batch.blocks
        for t_ms, values in zip(block.t_ms.tolist(), block.values.tolist(), strict=True)
        for at, labels in enumerate(block.series_set.labels)
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_samples", [1, 7, 40, 10_000])
def test_batches_of_any_size_hold_each_row_once(seed: int, max_samples: int, tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    with a_stretch(maker, seed) as stretch:
        one = stretch.slice(0)

        def batches(most: int, done: int = 0) -> list[Batch]:
            made = Batches(stretch, 0, lambda header: sent_labels(header, "job", {}), None, most)
            return list(made.of(one, done))

        whole, parts = batches(10_000), batches(max_samples)
        assert len(whole) == 1
        assert samples_of(parts) == samples_of(whole)
        assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])]
        assert parts[-1].end == one.t_ms.size
        # A row is sent with the markers of the series that vanish at it.
        assert all(part.samples <= max(max_samples, 4) for part in parts)
        middle = parts[len(parts) // 2]
        assert samples_of(batches(max_samples, middle.begin)) == samples_of(parts[len(parts) // 2 :])
    maker.close()


def test_unselected_and_old_samples_are_left_out_but_their_rows_count(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    with a_stretch(maker, 1) as stretch:
        one = stretch.slice(0)
        made = Batches(
            stretch, 0, lambda header: sent_labels(header, "job", {}), parse_selector("c1"), 10_000
        )
        [batch] = made.of(one, 0, oldest_ms=T0 + 30_000)
    maker.close()
    found = samples_of([batch])
    assert {name for _, name, _, _ in found} == {"c1"}
    assert min(t_ms for _, _, t_ms, _ in found) >= T0 + 30_000
    assert (batch.begin, batch.end) == (0, 60)
    found = [one for one in found if one[3] != "nan"]
    assert batch.passed_over + len(found) == np.count_nonzero(
        np.array([one.parts[part][0] is A for part in one.part.tolist()])
    )
