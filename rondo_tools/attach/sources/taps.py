"""Bytes and packets of a VM's tap devices, as the kernel counts them.

Strategy: /proc/PID/fdinfo names the VMM's open taps, and /proc/PID/net/dev has their counters in the VMM's
network namespace. Taps of VMs in other namespaces may have the same name. VMs of one namespace share one
reading. The guest receives what the host sends into a tap. A tap may be older than its VM, so it counts from
the moment at which it is found.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence

from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.readings import NETWORK, Reading, Report, Totals

_NEEDS = "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
_MOST_DESCRIPTORS = 4096  # of a VMM that are read
_LOOK_AGAIN_S = 60.0  # time between searches for added taps
_FRESH = 0.5  # of an interval: the maximal age of a namespace's reading

# The counters' fields in a line of net/dev, in the order of NETWORK: the host's transmit is the guest's
# receive.
_FIELDS = (8, 0, 9, 1)


class TapAdapter:
    """Works with any VMM."""

    name = "taps"
    brings = "net_*"

    def __init__(self) -> None:
        self._devices: dict[int, tuple[float, Mapping[str, Sequence[int]]]] = {}  # by namespace

    async def follow(self, target: Target, report: Report) -> None:
        taps = taps_of(target.pid)
        if not taps:
            raise RefusedError("the VMM has no tap device open")
        until_s = time.monotonic() + _LOOK_AGAIN_S
        totals = report.kept(lambda: Totals(len(NETWORK)))
        while time.monotonic() < until_s:
            devices = self._read(target)
            totals.add({tap: devices[tap] for tap in taps if tap in devices}, from_now=True)
            report.reading = Reading(dict(zip(NETWORK, totals.sums, strict=True)))
            report.refused = None
            if await report.dies_within(target.until_due_s(time.time())):
                return

    def _read(self, target: Target) -> Mapping[str, Sequence[int]]:
        namespace = os.stat(f"/proc/{target.pid}/ns/net").st_ino
        read_s, devices = self._devices.get(namespace, (0.0, {}))
        now_s = time.monotonic()
        if now_s - read_s > target.interval_s * _FRESH:
            with open(f"/proc/{target.pid}/net/dev") as file:
                devices = parse(file.read())
            fresh_s = now_s - 2 * target.interval_s
            self._devices = {one: read for one, read in self._devices.items() if read[0] > fresh_s}
            self._devices[namespace] = now_s, devices
        return devices


def taps_of(pid: int) -> frozenset[str]:
    """The names of the taps that a process has open. Raises RefusedError without permission, or OSError."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")[:_MOST_DESCRIPTORS]
    except PermissionError:
        raise RefusedError("its descriptors may not be read", _NEEDS) from None
    taps = set()
    for number in descriptors:
        with contextlib.suppress(FileNotFoundError):  # the descriptor was closed meanwhile
            if os.readlink(f"/proc/{pid}/fd/{number}").endswith("/tun"):
                with open(f"/proc/{pid}/fdinfo/{number}") as file:
                    for line in file:
                        if line.startswith("iff:"):
                            taps.add(line.removeprefix("iff:").strip())
    return frozenset(taps)


def parse(text: str) -> dict[str, Sequence[int]]:
    """The counters of each device of /proc/PID/net/dev, in the order of NETWORK."""
    devices: dict[str, Sequence[int]] = {}
    for line in text.splitlines()[2:]:
        name, colon, rest = line.rpartition(":")
        fields = rest.split()
        if colon and len(fields) > max(_FIELDS):
            devices[name.strip()] = [int(fields[at]) for at in _FIELDS]
    return devices
