"""Which exit counters this host lets us have: BPF, else perf, else none; and why not the better ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rondo_tools.attach.counters import bpf, perf
from rondo_tools.attach.counters.base import ExitCounters


class Refusal(NamedTuple):
    """Something that cannot be had. For people."""

    source: str
    why: str
    needs: str
    series: str  # what is missing for it


class Chosen(NamedTuple):
    """`since_boot_s` is when the counters began to count, by CLOCK_BOOTTIME, or a moment after it."""

    counters: ExitCounters | None
    refused: tuple[Refusal, ...]
    since_boot_s: float


def choose(kept: Mapping[str, int] | None = None) -> Chosen:
    """`kept` are the descriptors of the counters of a watcher before us, to go on with."""
    refused: list[Refusal] = []
    tries: tuple[tuple[str, str, Callable[[], ExitCounters], str], ...] = (
        (
            "bpf",
            bpf.NEEDS,
            lambda: bpf.BpfCounters(kept=kept),
            "vcpu_cpu_seconds_total, vcpu_wait_seconds_total",
        ),
        ("perf", perf.NEEDS, lambda: perf.PerfCounters(), "vcpu_exits_total"),
    )
    for name, needs, make, series in tries:
        try:
            counters = make()
        except OSError as exc:
            where = f"{exc.filename}: " if exc.filename else ""
            refused.append(Refusal(name, f"{where}{exc.strerror or exc}", needs, series))
            continue
        refused += [Refusal(name, note, "", "") for note in counters.notes]
        return Chosen(counters, tuple(refused), time.clock_gettime(time.CLOCK_BOOTTIME))
    return Chosen(None, tuple(refused), time.clock_gettime(time.CLOCK_BOOTTIME))
