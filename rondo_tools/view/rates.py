"""Rates of counters, as in PromQL."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def rates(t_ms: Times, values: Values) -> Values:
    """A counter's increase per second between consecutive values; one fewer than the values.

    As in PromQL a counter that falls has restarted at 0, so its value is the increase.
    """
    with np.errstate(all="ignore"):  # an infinite counter has no rate: NaN
        increases = np.where(values[1:] < values[:-1], values[1:], np.diff(values))
        return np.asarray(increases * 1000 / np.diff(t_ms))
