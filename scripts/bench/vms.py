"""Simulated VMs with reproducible values: some that do not end, and some that live five seconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import COUNTER, SERIES

LIFE_S = 5
SHORT = 20  # VMs that live five seconds
FIRST_S, PITCH_S = 2, 1  # the start of the first of them, and the seconds between starts


class Fleet:
    """`vms` that do not end, and SHORT others."""

    def __init__(self, vms: int) -> None:
        self.steady = [f"vm-{number:05d}" for number in range(vms)]
        self.short = [f"short-{number:02d}" for number in range(SHORT)]
        random = np.random.default_rng(1)
        self._is_counter = np.array([series.kind == COUNTER for series in SERIES])
        self._rates = random.integers(1, 5000, (vms + SHORT, len(SERIES)))
        self._phases = random.random((vms + SHORT, len(SERIES))) * 6

    def born(self, second: int) -> list[str]:
        """The short VMs that begin in a second."""
        number, rest = divmod(second - FIRST_S, PITCH_S)
        return [] if rest or not 0 <= number < SHORT else [self.short[number]]

    def at(self, second: int) -> tuple[list[str], npt.NDArray[np.float64]]:
        """The VMs that run in a second, and their values (VMs, series) at its end."""
        begins = FIRST_S + PITCH_S * np.arange(SHORT)
        alive = np.flatnonzero((begins <= second) & (second < begins + LIFE_S))
        rows = np.concatenate((np.arange(len(self.steady)), len(self.steady) + alive))
        gauges = (5000 + 300 * np.sin(second + self._phases[rows])).round(3)
        values = np.where(self._is_counter, self._rates[rows] * (second + 1), gauges)
        return self.steady + [self.short[number] for number in alive], values.astype(np.float64)
