"""The lives of an instance, merged into one line of time."""

from __future__ import annotations

import numpy as np
import pytest

from rondo_tools.prom.lives import in_order, is_marked

Row = tuple[int, int, int, bool]  # instance, start, time, whether it is a marker


@pytest.mark.parametrize(
    ("rows", "past", "expected"),
    [
        pytest.param([(0, 1, 3, False), (0, 1, 2, False)], [0], [1, 0], id="by time"),
        pytest.param([(1, 1, 2, False), (0, 1, 3, False)], [0, 0], [1, 0], id="by instance first"),
        pytest.param([(0, 1, 2, False), (0, 1, 3, False)], [2], [1], id="not what it is past"),
        pytest.param([(0, 5, 9, False), (0, 1, 9, False)], [0], [1], id="of two lives the earlier one's"),
        pytest.param([(0, 1, 9, True), (0, 5, 9, False)], [0], [1], id="a tick before a marker"),
        pytest.param([(0, 1, 9, True), (1, 1, 9, False)], [0, 0], [0, 1], id="equal times of two instances"),
        pytest.param([], [0], [], id="nothing"),
    ],
)
def test_rows_are_sent_by_instance_and_time_without_duplicates(
    rows: list[Row], past: list[int], expected: list[int]
) -> None:
    instance = np.array([row[0] for row in rows], np.intp)
    start_ms, t_ms = (np.array([row[n] for row in rows], np.int64) for n in (1, 2))
    is_marker = np.array([row[3] for row in rows], np.bool_)
    past_ms = np.array(past, np.int64)[instance]
    assert in_order(instance, start_ms, t_ms, is_marker, past_ms).tolist() == expected


def test_a_life_is_marked_unless_the_next_one_has_begun() -> None:
    assert is_marked(0, 10, [0])
    assert is_marked(0, 10, [0, 12])
    assert not is_marked(0, 10, [0, 11])
    assert not is_marked(0, 10, [0, 5])
    assert is_marked(5, 10, [0, 5]), "earlier lives do not matter"
