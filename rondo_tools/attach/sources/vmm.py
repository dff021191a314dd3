"""The VMM's process: memory, descriptors, uptime, CPU time. For any VMM, without any permission."""

from __future__ import annotations

from collections.abc import Sequence

from rondo_tools.attach.process import Process
from rondo_tools.attach.sources.base import Moment
from rondo_tools.catalog import CPU, SERIES

_CPU = next(one for one in CPU if one.name == "vmm_cpu_seconds_total")
_GAUGES = tuple(one for one in SERIES if one.name in ("vmm_rss_bytes", "vmm_open_fds", "vmm_uptime_seconds"))


class VmmSource:
    """`is_late`: the process ran before we came, so its CPU time begins at 0 now. Its uptime does not."""

    def __init__(self, process: Process, *, is_late: bool) -> None:
        self._process = process
        gauges = _GAUGES if process.counts_fds else tuple(g for g in _GAUGES if g.name != "vmm_open_fds")
        self.series = (*gauges, _CPU)
        self._cpu_base = process.cpu_s() if is_late else 0.0

    def values(self, moment: Moment) -> Sequence[float]:
        rss, fds = self._process.gauges()
        known = (rss, fds) if self._process.counts_fds else (rss,)
        uptime_s = moment.boot_s - self._process.started_s()
        return (*known, uptime_s, self._process.cpu_s() - self._cpu_base)

    def begin_anew(self) -> None:
        self._cpu_base = self._process.cpu_s()
