"""The catalogue: the series that a VM can have, written out."""

from __future__ import annotations

import pytest

from rondo_tools import catalog, stream
from rondo_tools.catalog import Series

EXPECTED = {
    'vcpu_exits_total{reason="io"}': ("counter", "exits"),
    'vcpu_exits_total{reason="mmio"}': ("counter", "exits"),
    'vcpu_exits_total{reason="hlt"}': ("counter", "exits"),
    'vcpu_exits_total{reason="shutdown"}': ("counter", "exits"),
    'vcpu_exits_total{reason="other"}': ("counter", "exits"),
    "vcpu_exit_duration_ns": ("gauge", "ns"),
    "vcpu_run_duration_ns": ("gauge", "ns"),
    'blk_requests_total{op="read"}': ("counter", "requests"),
    'blk_requests_total{op="write"}': ("counter", "requests"),
    'blk_requests_total{op="flush"}': ("counter", "requests"),
    'blk_bytes_total{direction="read"}': ("counter", "bytes"),
    'blk_bytes_total{direction="write"}': ("counter", "bytes"),
    "blk_request_duration_ns": ("gauge", "ns"),
    "vmm_rss_bytes": ("gauge", "bytes"),
    "vmm_open_fds": ("gauge", "descriptors"),
    "vmm_uptime_seconds": ("gauge", "seconds"),
}
EXPECTED_CPU = {
    "vcpu_cpu_seconds_total": ("counter", "seconds"),
    "vcpu_wait_seconds_total": ("counter", "seconds"),
    "vmm_cpu_seconds_total": ("counter", "seconds"),
}
EXPECTED_NET = {
    'net_bytes_total{direction="receive"}': ("counter", "bytes"),
    'net_bytes_total{direction="transmit"}': ("counter", "bytes"),
    'net_packets_total{direction="receive"}': ("counter", "packets"),
    'net_packets_total{direction="transmit"}': ("counter", "packets"),
}


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (catalog.SERIES, EXPECTED),
        (catalog.CPU, EXPECTED_CPU),
        (catalog.NET, EXPECTED_NET),
        (catalog.ALL, EXPECTED | EXPECTED_CPU | EXPECTED_NET),
    ],
    ids=["SERIES", "CPU", "NET", "ALL"],
)
def test_exactly_these_series_in_this_order(
    series: tuple[Series, ...], expected: dict[str, tuple[str, str]]
) -> None:
    assert [(str(one), (one.kind, one.unit)) for one in series] == list(expected.items())


def test_counters_end_in_total_and_gauges_do_not() -> None:
    for one in catalog.ALL:
        assert one.name.endswith("_total") == (one.kind == catalog.COUNTER)


def test_one_help_text_a_name() -> None:
    """Remote-write metadata is by name, not by series."""
    help_of = {one.name: one.help for one in catalog.ALL}
    assert all(help_of[one.name] == one.help and one.help.endswith(".") for one in catalog.ALL)


def test_a_stream_may_carry_it() -> None:
    header = stream.Header("vm", 1, (), 1000, catalog.ALL)
    assert stream.header_from_map(stream.header_to_map(header)) == header


def test_spelling_escapes_quotes_backslashes_and_newlines() -> None:
    series = Series("m", (("a", 'say "hi"\\\n'), ("b", "é")), "gauge", "", "")
    assert str(series) == 'm{a="say \\"hi\\"\\\\\\n",b="é"}'
