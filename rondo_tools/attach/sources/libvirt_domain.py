"""A watched VM as a libvirt domain: evaluates its counters and its XML.

Strategy: several calls may return in any order, and a call may have read one domain long before it returned.
So counters are taken from a call only if it began after the last ones arrived: then they are newer. A device
without all of its counters, as in a busy domain, keeps its last ones.

From libvirt's documentation: libvirt-domain (virDomainStatsTypes), formatdomain (metadata, events).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from uuid import UUID
from xml.etree import ElementTree

from rondo_tools.attach.naming import Identity, bounded
from rondo_tools.attach.sources.adapters import Target
from rondo_tools.attach.sources.libvirt_client import Event, Record
from rondo_tools.attach.sources.readings import (
    BLOCK,
    DURATION,
    MAX_DEVICES,
    MOST,
    NETWORK,
    Reading,
    Report,
    Spent,
    Totals,
    count_of,
)
from rondo_tools.catalog import CPU, Series

VCPU_TIMES = tuple(one for one in CPU if one.name in ("vcpu_cpu_seconds_total", "vcpu_wait_seconds_total"))

_BLOCK_FIELDS = ("rd.reqs", "wr.reqs", "fl.reqs", "rd.bytes", "wr.bytes")
_BLOCK_TIMES = ("rd.times", "wr.times", "fl.times")
_NETWORK_FIELDS = ("rx.bytes", "tx.bytes", "rx.pkts", "tx.pkts")
_VCPU_FIELDS = ("time", "delay")
_NOVA = "{http://openstack.org/xmlns/libvirt/nova/"
_MOST_XML = 1 << 20  # characters


def uuid_of(identity: Identity) -> str:
    """A VM's UUID as libvirt writes it; "" if its command line has none."""
    try:
        return str(UUID(identity.uuid))
    except ValueError:
        return ""


class Domain:
    """Times are of the monotonic clock."""

    def __init__(self, uuid: str, target: Target, report: Report, proc: str = "/proc") -> None:
        self.uuid, self.report = uuid, report
        self.is_asked = False  # a call for its description was made
        self.is_known = False  # to libvirt
        self.is_over = False  # libvirt reported its end
        self.is_end_known = asyncio.Event()
        self.needs_vcpus = not set(VCPU_TIMES) <= set(target.has)
        self._command_line = f"{proc}/{target.pid}/cmdline"
        self._run: int | None = None
        self._counted_s = time.monotonic()
        self._ends_with_reset = True
        self._block = Totals(len(_BLOCK_FIELDS) + len(_BLOCK_TIMES))
        self._network = Totals(len(_NETWORK_FIELDS))
        self._vcpus = Totals(len(_VCPU_FIELDS))

    @property
    def is_alive(self) -> bool:
        return not self.report.is_last.is_set()

    def describe(self, xml: str) -> None:
        self.is_known = True
        name, self._ends_with_reset = parse_xml(xml)
        if name:
            self.report.labels = {**self.report.labels, "nova_name": name}

    def take(self, record: Record, began_s: float) -> None:
        """Take the counters of a call that began at `began_s`."""
        if began_s < self._counted_s:
            return
        if self._run is None and self._is_running():
            self._run = record.run
        if record.run != self._run:  # the domain was started again
            return
        self._counted_s = time.monotonic()
        stats = record.stats
        self._block.add(devices_of(stats, "block", stats.get("block.count"), _BLOCK_FIELDS + _BLOCK_TIMES))
        self._network.add(devices_of(stats, "net", stats.get("net.count"), _NETWORK_FIELDS))
        self._vcpus.add(devices_of(stats, "vcpu", stats.get("vcpu.maximum"), _VCPU_FIELDS))
        self.report.reading, self.report.refused = self._reading(), None

    def take_event(self, event: Event) -> None:
        """Take the end reason. If a reset ends the domain too, libvirt reports it like a power-off."""
        self.is_over |= event.is_over
        if not event.is_over:
            is_known = event.reason != "poweroff" or not self._ends_with_reset
            self.report.end_reason = event.reason if is_known else ""
        if self.is_over or self.report.end_reason:
            self.is_end_known.set()
        else:
            self.is_end_known.clear()

    def _is_running(self) -> bool:
        """Whether the process is still the one that was found, so that the domain's run is its own."""
        try:
            with open(self._command_line, "rb") as file:
                return self.uuid.encode() in file.read().lower()
        except OSError:
            return False

    def _reading(self) -> Reading:
        counters: dict[Series, float] = {}
        means = {}
        if self._block.last:
            counts, times = self._block.sums[: len(BLOCK)], self._block.sums[len(BLOCK) :]
            counters |= dict(zip(BLOCK, counts, strict=True))
            means[DURATION] = Spent(sum(counts[:3]), sum(times))
        if self._network.last:
            counters |= dict(zip(NETWORK, self._network.sums, strict=True))
        if self._vcpus.last:
            counters |= {one: ns / 1e9 for one, ns in zip(VCPU_TIMES, self._vcpus.sums, strict=True)}
        return Reading(counters, means)


def devices_of(
    stats: Mapping[str, object], kind: str, number: object, fields: Sequence[str]
) -> dict[str, Sequence[int]]:
    """The counters of each device of a kind, by name; without devices that lack some."""
    devices: dict[str, Sequence[int]] = {}
    for at in range(min(count_of(number), MAX_DEVICES)):
        values = [stats.get(f"{kind}.{at}.{field}") for field in fields]
        counts = [value for value in values if type(value) is int and 0 <= value < MOST]
        if len(counts) == len(fields):
            devices[str(stats.get(f"{kind}.{at}.name", at))] = counts
    return devices


def parse_xml(xml: str) -> tuple[str, bool]:
    """nova's name of a domain, or ""; and whether a reset ends it, True if unknown."""
    try:
        root = ElementTree.fromstring(xml if len(xml) <= _MOST_XML else "")  # noqa: S314 (libvirt wrote it)
    except ElementTree.ParseError:
        return "", True
    names = [
        child.text or ""
        for instance in root.findall("metadata/*")
        if instance.tag.startswith(_NOVA) and instance.tag.endswith("}instance")
        for child in instance
        if child.tag == instance.tag.replace("}instance", "}name")
    ]
    ends_with_reset = root.findtext("on_reboot") not in ("restart", "rename-restart")
    return bounded((*names, "")[0].strip()), ends_with_reset
