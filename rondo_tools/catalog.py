"""The catalogue: the only definition of the series that a VM can have.

It is used by the stream's header, remote-write metadata, the table in docs/metrics.md and the tests of
the dashboards. Counters are cumulative from the start of the VM. A gauge with nothing to average in a
tick is NaN, "no value". A producer that cannot measure a series leaves it out of its header.
"""

from __future__ import annotations

from typing import NamedTuple

COUNTER = "counter"
GAUGE = "gauge"
KINDS = (COUNTER, GAUGE)

EXIT_REASONS = ("io", "mmio", "hlt", "shutdown", "other")
BLOCK_OPS = ("read", "write", "flush")
DIRECTIONS = ("read", "write")
NET_DIRECTIONS = ("receive", "transmit")


class Series(NamedTuple):
    """One time series: `labels` are (name, value) pairs sorted by name."""

    name: str
    labels: tuple[tuple[str, str], ...]
    kind: str
    unit: str
    help: str

    def __str__(self) -> str:
        """The Prometheus spelling: ``name{label="value"}``, values escaped as in its text format."""
        if not self.labels:
            return self.name
        pairs = ",".join(f'{name}="{escape(value)}"' for name, value in self.labels)
        return f"{self.name}{{{pairs}}}"


def escape(value: str) -> str:
    """Escape a label value for double quotes in PromQL and the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _one_each(
    name: str, label: str, values: tuple[str, ...], kind: str, unit: str, help: str
) -> tuple[Series, ...]:
    return tuple(Series(name, ((label, value),), kind, unit, help) for value in values)


# Series that only the VMM itself can count, and those of its process. rondo-vmm always has all of them.
SERIES: tuple[Series, ...] = (
    *_one_each("vcpu_exits_total", "reason", EXIT_REASONS, COUNTER, "exits", "KVM exits, by reason."),
    Series(
        "vcpu_exit_duration_ns",
        (),
        GAUGE,
        "ns",
        "Mean time to handle one exit, over the tick (time asleep in HLT is not handling).",
    ),
    Series(
        "vcpu_run_duration_ns",
        (),
        GAUGE,
        "ns",
        "Mean time inside KVM_RUN between exits, over the tick.",
    ),
    *_one_each(
        "blk_requests_total",
        "op",
        BLOCK_OPS,
        COUNTER,
        "requests",
        "virtio-blk requests completed, by operation.",
    ),
    *_one_each(
        "blk_bytes_total",
        "direction",
        DIRECTIONS,
        COUNTER,
        "bytes",
        "Bytes moved by virtio-blk, by direction.",
    ),
    Series(
        "blk_request_duration_ns",
        (),
        GAUGE,
        "ns",
        "Mean time of one virtio-blk request, over the tick.",
    ),
    Series("vmm_rss_bytes", (), GAUGE, "bytes", "Resident set size of the VMM process."),
    Series("vmm_open_fds", (), GAUGE, "descriptors", "Open file descriptors of the VMM process."),
    Series("vmm_uptime_seconds", (), GAUGE, "seconds", "Time since the VMM started."),
)

# CPU time of the VM's threads, accounted by the kernel.
CPU: tuple[Series, ...] = (
    Series("vcpu_cpu_seconds_total", (), COUNTER, "seconds", "CPU time of the vCPU threads."),
    Series(
        "vcpu_wait_seconds_total",
        (),
        COUNTER,
        "seconds",
        "Time that vCPU threads waited for a CPU to run on: steal, as the guest sees it.",
    ),
    Series(
        "vmm_cpu_seconds_total", (), COUNTER, "seconds", "CPU time of the VMM process, all of its threads."
    ),
)
# Series of a VM with network devices.
NET: tuple[Series, ...] = (
    *_one_each(
        "net_bytes_total",
        "direction",
        NET_DIRECTIONS,
        COUNTER,
        "bytes",
        "Bytes of network traffic, by direction as the guest sees it.",
    ),
    *_one_each(
        "net_packets_total",
        "direction",
        NET_DIRECTIONS,
        COUNTER,
        "packets",
        "Packets of network traffic, by direction as the guest sees it.",
    ),
)
ALL = (*SERIES, *CPU, *NET)
