"""The catalogue: the 16 series of rondo-vmm, written out."""

from __future__ import annotations

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


def test_exactly_these_series_in_this_order() -> None:
    assert [(str(one), (one.kind, one.unit)) for one in catalog.SERIES] == list(EXPECTED.items())


def test_counters_end_in_total_and_gauges_do_not() -> None:
    for one in catalog.SERIES:
        assert one.name.endswith("_total") == (one.kind == catalog.COUNTER)


def test_one_help_text_a_name() -> None:
    """Remote-write metadata is by name, not by series."""
    said = {one.name: one.help for one in catalog.SERIES}
    assert all(said[one.name] == one.help and one.help.endswith(".") for one in catalog.SERIES)


def test_a_stream_may_carry_it() -> None:
    header = stream.Header("vm", 1, (), 1000, catalog.SERIES)
    assert stream.header_from_map(stream.header_to_map(header)) == header


def test_spelling_escapes_what_would_end_a_label_value() -> None:
    series = Series("m", (("a", 'say "hi"\\\n'), ("b", "é")), "gauge", "", "")
    assert str(series) == 'm{a="say \\"hi\\"\\\\\\n",b="é"}'
