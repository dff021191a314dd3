"""The catalogue: the 16 series that rondo-vmm emits, once, for all who need them.

The stream's header, remote-write metadata, the table in docs/metrics.md and the dashboards' tests
read it. Counters are cumulative from the start of the VM; a gauge with nothing to average in a
tick is NaN, "no value".
"""

from __future__ import annotations

from typing import NamedTuple

COUNTER = "counter"
GAUGE = "gauge"
KINDS = (COUNTER, GAUGE)

EXIT_REASONS = ("io", "mmio", "hlt", "shutdown", "other")
BLOCK_OPS = ("read", "write", "flush")
DIRECTIONS = ("read", "write")


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
    """A label value as it stands between double quotes in PromQL and the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _one_each(
    name: str, label: str, values: tuple[str, ...], kind: str, unit: str, help: str
) -> tuple[Series, ...]:
    return tuple(Series(name, ((label, value),), kind, unit, help) for value in values)


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
