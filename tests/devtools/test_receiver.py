"""The receiver that stands in for a Prometheus in the demo."""

from __future__ import annotations

import struct
import urllib.error
import urllib.request

import pytest

from devtools.receivers.receiver import StandIn
from rondo_tools.prom.proto.remote_write_v1_pb2 import Label, Sample, TimeSeries, WriteRequest
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push.encoding.v1 import compress
from tests.support.needs import PATIENCE_S


def write(url: str, *samples: tuple[int, float]) -> int:
    """Delivers samples of one series; returns the status."""
    labels = [Label(name="__name__", value="heat"), Label(name="instance", value="vm-1")]
    series = TimeSeries(
        labels=labels, samples=[Sample(timestamp=t_ms, value=value) for t_ms, value in samples]
    )
    body = compress(WriteRequest(timeseries=[series]))
    with urllib.request.urlopen(url, body, timeout=PATIENCE_S) as answer:
        return int(answer.status)


def test_the_receiver_keeps_samples_and_refuses_them_out_of_order() -> None:
    with StandIn() as receiver:
        assert write(receiver.write_url, (1000, 1.5), (2000, 2.5)) == 204
        assert (
            write(
                receiver.write_url, (2000, 2.5), (2001, struct.unpack("<d", struct.pack("<Q", STALE_NAN))[0])
            )
            == 204
        )
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            write(receiver.write_url, (1500, 3.0))
        assert refused.value.read() == b"out of order sample"
        refused.value.close()
        heat = (("__name__", "heat"), ("instance", "vm-1"))
        assert receiver.samples('{instance="vm-1"}') == {heat: [(1000, "1.5"), (2000, "2.5")]}
        assert receiver.samples('{instance="vm-2"}') == {}
