"""The VMM's process: memory, descriptors, uptime, CPU time. For any VMM; needs no permission."""

from __future__ import annotations

from collections.abc import Sequence

from rondo_tools.attach.process import Process
from rondo_tools.attach.sources.base import Moment
from rondo_tools.catalog import CPU, SERIES

_CPU = next(one for one in CPU if one.name == "vmm_cpu_seconds_total")
_GAUGES = tuple(one for one in SERIES if one.name in ("vmm_rss_bytes", "vmm_open_fds", "vmm_uptime_seconds"))


class VmmSource:
    """`is_late`: the process ran before it was found, so its CPU time begins at 0 now; its uptime does not.

    `cpu_base_s` is the CPU time at the start of a session that continues.
    """

    def __init__(self, process: Process, *, is_late: bool, cpu_base_s: float | None = None) -> None:
        self._process, self._started_s = process, process.started_s()
        gauges = _GAUGES if process.counts_fds else tuple(g for g in _GAUGES if g.name != "vmm_open_fds")
        self.series = (*gauges, _CPU)
        self.cpu_base_s = (process.cpu_s() if is_late else 0.0) if cpu_base_s is None else cpu_base_s

    def values(self, moment: Moment) -> Sequence[float]:
        process = self._process
        rss, fds = process.gauges()
        uptime_s, cpu_s = moment.boot_s - self._started_s, process.cpu_s() - self.cpu_base_s
        return (rss, fds, uptime_s, cpu_s) if process.counts_fds else (rss, uptime_s, cpu_s)

    def begin_anew(self) -> None:
        self.cpu_base_s = self._process.cpu_s()
