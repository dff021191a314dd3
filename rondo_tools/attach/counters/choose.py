"""Chooses the exit counters of this host: BPF, else perf, else none; with the reasons for refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rondo_tools.attach.counters import bpf, perf
from rondo_tools.attach.counters.base import ExitCounters


class Refusal(NamedTuple):
    """Something that is not available, for messages."""

    source: str
    why: str
    needs: str
    series: str  # that are missing


class Chosen(NamedTuple):
    """`since_boot_s` is the CLOCK_BOOTTIME at which the counters began, or a moment later."""

    counters: ExitCounters | None
    refused: tuple[Refusal, ...]
    since_boot_s: float


def choose(kept: Mapping[str, int] | None = None) -> Chosen:
    """`kept` are the descriptors of the previous watcher's counters, to continue with."""
    refused: list[Refusal] = []
    tries: tuple[tuple[str, str, Callable[[], ExitCounters], str], ...] = (
        (
            "bpf",
            bpf.NEEDS,
            lambda: bpf.BpfCounters(kept=kept),
            "vcpu_cpu_seconds_total, vcpu_wait_seconds_total",
        ),
        ("perf", perf.NEEDS, perf.PerfCounters, "vcpu_exits_total"),
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
