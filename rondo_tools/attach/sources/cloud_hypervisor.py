"""Cloud Hypervisor's counters of its devices, by `vm.counters` over its API socket.

Strategy: one request an interval. The answer has a map for each device. Cloud Hypervisor or its owner chooses
the devices' names, so the kind of a device shows in its counters. A latency is the mean of all requests so
far, in microseconds; it is used for those of the interval, because no better one exists. Before the first
request it is a meaningless number near 2^64.

From Cloud Hypervisor's documentation and source: docs/api.md, cloud-hypervisor.yaml (VmCounters), and the
counters() of its block and net devices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence

from rondo_tools.attach.naming import PathTemplate
from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.readings import (
    BLOCK_BYTES,
    DURATION,
    NETWORK,
    REQUESTS,
    Reading,
    Report,
    Spent,
    Totals,
    count_of,
)
from rondo_tools.attach.sources.unix_http import ask
from rondo_tools.catalog import Series

_DEADLINE = 0.8  # of an interval
_SANE_US = 600_000_000  # ten minutes: a longer mean is ignored

_BLOCK = (*REQUESTS[:2], *BLOCK_BYTES)  # it does not count flushes
_BLOCK_FIELDS = ("read_ops", "write_ops", "read_bytes", "write_bytes")
_LATENCIES = ("read_latency_avg", "write_latency_avg")
_NETWORK_FIELDS = ("rx_bytes", "tx_bytes", "rx_frames", "tx_frames")


class CloudHypervisorAdapter:
    """`template` is the path of a VM's API socket."""

    name = "cloud-hypervisor"
    brings = "blk_*, net_*"

    def __init__(self, template: PathTemplate) -> None:
        self._template = template

    async def follow(self, target: Target, report: Report) -> None:
        path = target.path(self._template)
        devices = report.kept(Devices)
        while True:
            try:
                async with asyncio.timeout(target.interval_s * _DEADLINE):
                    status, body = await ask(path, target.pid, "GET", "/api/v1/vm.counters")
            except TimeoutError:
                raise RefusedError("it does not answer") from None
            if status != 200:
                raise RefusedError(f"it answers with status {status}: the VM is not booted")
            devices.add(parse(body))
            report.reading, report.refused = devices.reading(), None
            if await report.dies_within(target.until_due_s(time.time())):
                return


class Devices:
    """Adds up the counters of a VM's devices."""

    def __init__(self) -> None:
        self._block, self._network = Totals(len(_BLOCK_FIELDS)), Totals(len(_NETWORK_FIELDS))
        self._has_block = self._has_network = self._has_means = False
        self._timed = self._micros = 0

    def add(self, answer: Mapping[str, Mapping[str, object]]) -> None:
        block = _having(answer, _BLOCK_FIELDS)
        network = _having(answer, _NETWORK_FIELDS)
        self._has_block |= bool(block)
        self._has_network |= bool(network)
        before = self._block.last
        for name, counts in block.items():
            self._has_means |= _LATENCIES[0] in answer[name]
            for at, field in enumerate(_LATENCIES):
                mean_us = count_of(answer[name].get(field))
                requests = counts[at] - (before[name][at] if name in before else 0)
                if 0 < mean_us < _SANE_US and requests > 0:
                    self._timed += requests
                    self._micros += mean_us * requests
        self._block.add(block)
        self._network.add(network)

    def reading(self) -> Reading:
        counters: dict[Series, float] = {}
        if self._has_block:
            counters |= dict(zip(_BLOCK, self._block.sums, strict=True))
        if self._has_network:
            counters |= dict(zip(NETWORK, self._network.sums, strict=True))
        means = {DURATION: Spent(self._timed, self._micros * 1000)} if self._has_means else {}
        return Reading(counters, means)


def parse(body: bytes) -> Mapping[str, Mapping[str, object]]:
    """The devices. Raises RefusedError."""
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(body)
        if isinstance(answer, dict):
            return {name: device for name, device in answer.items() if isinstance(device, dict)}
    raise RefusedError("its answer is not vm.counters")


def _having(answer: Mapping[str, Mapping[str, object]], fields: Sequence[str]) -> dict[str, Sequence[int]]:
    return {
        name: [count_of(device[field]) for field in fields]
        for name, device in answer.items()
        if all(field in device for field in fields)
    }
