"""The sampler turns counters into the values of a tick. It does no I/O except reading /proc.

Strategy: a tick is made from two snapshots of the counters. `producer.pace` decides when a tick is due.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Sequence

from rondo_tools.catalog import BLOCK_OPS, DIRECTIONS, EXIT_REASONS, Series
from rondo_tools.vmm.counters import Snapshot

# Identifies a series: its name and labels.
_Key = tuple[str, tuple[tuple[str, str], ...]]


class Sampler:
    """Turns snapshots into ticks: `values` in the order of `series`, little-endian float64.

    `proc` is this process's folder in /proc; a value that cannot be read there is NaN. Counters start at 0
    with the session.
    """

    def __init__(self, series: Sequence[Series], proc: str = "/proc/self") -> None:
        self._keys = [(one.name, one.labels) for one in series]
        self._proc = proc
        self._page_size = os.sysconf("SC_PAGE_SIZE")
        self._before = Snapshot()  # of the last tick
        self._base = Snapshot()  # of the previous session's last tick

    def begin_anew(self) -> None:
        """Begin another session at the last tick."""
        self._base = self._before

    def values(self, now: Snapshot, uptime_s: float) -> bytes:
        """The values of a tick; means are over the time since the previous call."""
        measured = self._measure(now, uptime_s)
        self._before = now
        return struct.pack(f"<{len(self._keys)}d", *(measured[key] for key in self._keys))

    def _measure(self, now: Snapshot, uptime_s: float) -> dict[_Key, float]:
        before, total = self._before, now.since(self._base)
        exits = sum(now.exits) - sum(before.exits)
        requests = sum(now.block_requests) - sum(before.block_requests)
        moved = dict(zip(BLOCK_OPS, total.block_bytes, strict=True))
        return {
            **_each("vcpu_exits_total", "reason", EXIT_REASONS, total.exits_by_reason().values()),
            ("vcpu_exit_duration_ns", ()): _mean(now.exit_ns - before.exit_ns, exits),
            ("vcpu_run_duration_ns", ()): _mean(now.run_ns - before.run_ns, exits),
            **_each("blk_requests_total", "op", BLOCK_OPS, total.block_requests),
            **_each("blk_bytes_total", "direction", DIRECTIONS, [moved[op] for op in DIRECTIONS]),
            ("blk_request_duration_ns", ()): _mean(now.block_ns - before.block_ns, requests),
            ("vmm_rss_bytes", ()): self._rss_bytes(),
            ("vmm_open_fds", ()): self._open_fds(),
            ("vmm_uptime_seconds", ()): uptime_s,
            ("vcpu_cpu_seconds_total", ()): total.vcpu_cpu_ns / 1e9,
            ("vcpu_wait_seconds_total", ()): total.vcpu_wait_ns / 1e9,
            ("vmm_cpu_seconds_total", ()): total.vmm_cpu_ns / 1e9,
        }

    def _rss_bytes(self) -> float:
        try:
            with open(f"{self._proc}/statm", "rb") as file:
                return float(file.read().split()[1]) * self._page_size
        except (OSError, ValueError, IndexError):
            return math.nan

    def _open_fds(self) -> float:
        try:
            return float(len(os.listdir(f"{self._proc}/fd")) - 1)  # one of them belongs to the listing
        except OSError:
            return math.nan


def _each(name: str, label: str, values: Iterable[str], counts: Iterable[int]) -> dict[_Key, float]:
    """A counter for each value of a label."""
    return {(name, ((label, value),)): float(count) for value, count in zip(values, counts, strict=True)}


def _mean(total: int, count: int) -> float:
    return total / count if count else math.nan
