"""Cloud Hypervisor's counters, from a fake that answers in the form of its versions 43 and 53."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach.naming import Identity, PathTemplate
from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.cloud_hypervisor import CloudHypervisorAdapter, Devices, parse
from rondo_tools.attach.sources.readings import DURATION, Report
from tests.support.needs import PATIENCE_S

UNSET = (1 << 64) - 1
READ = 'blk_requests_total{op="read"}'


def disk(reads: int, *, mean_us: int = 20) -> dict[str, int]:
    """A disk with reads of 512 bytes only; the means of writes are meaningless."""
    return {
        "read_bytes": reads * 512, "read_ops": reads, "write_bytes": 0, "write_ops": 0,
        "read_latency_min": 3, "read_latency_max": 900, "read_latency_avg": mean_us,
        "write_latency_min": UNSET, "write_latency_max": UNSET, "write_latency_avg": UNSET // 10_000,
    }  # fmt: skip


def net(frames: int) -> dict[str, int]:
    return {"rx_bytes": frames * 60, "rx_frames": frames, "tx_bytes": frames * 1500, "tx_frames": frames * 2}


def answer(devices: object, status: str = "200 OK") -> bytes:
    body = json.dumps(devices).encode()
    return (
        f"HTTP/1.1 {status}\r\nServer: Cloud Hypervisor API\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def counters(report: Report) -> dict[str, float]:
    assert report.reading is not None
    return {str(series): value for series, value in report.reading.counters.items()}


def follow(*answers: bytes) -> tuple[Report, list[bytes], Exception]:
    """The adapter's report of a server with these answers, one for each connection, which then ends."""
    report, requests = Report(), []
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/vm")
        listener.listen()

        def serve() -> None:
            for one in answers:
                peer, _ = listener.accept()
                with peer, suppress(OSError):  # the client may be gone
                    requests.append(peer.recv(1 << 12))
                    peer.sendall(one)
                    peer.recv(1)
            listener.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        target = Target(os.getpid(), Identity("vm", "process id", "cloud-hypervisor"), 0.2)
        try:
            asyncio.run(CloudHypervisorAdapter(PathTemplate(f"{folder}/{{name}}")).follow(target, report))
        except (OSError, EOFError, RefusedError) as exc:
            return report, requests, exc
        finally:
            thread.join(PATIENCE_S)
    raise AssertionError("it followed to no end")


def test_disks_and_nets_are_summed() -> None:
    report, requests, _ = follow(
        answer({"_disk0": disk(10), "data": disk(5), "_net1": net(3), "__serial": {}}),
        answer({"_disk0": disk(14, mean_us=30), "data": disk(5), "_net1": net(4)}),
    )
    assert counters(report) == {
        READ: 19,
        'blk_requests_total{op="write"}': 0,
        'blk_bytes_total{direction="read"}': 19 * 512,
        'blk_bytes_total{direction="write"}': 0,
        'net_bytes_total{direction="receive"}': 240,
        'net_bytes_total{direction="transmit"}': 6000,
        'net_packets_total{direction="receive"}': 4,
        'net_packets_total{direction="transmit"}': 8,
    }
    assert report.reading is not None
    assert report.reading.means == {DURATION: (19, (15 * 20 + 4 * 30) * 1000)}
    assert requests[0].startswith(b"GET /api/v1/vm.counters HTTP/1.1\r\n")


def test_a_vm_without_a_net_has_no_such_series() -> None:
    report, _, _ = follow(answer({"_disk0": disk(1)}))
    assert not [series for series in counters(report) if series.startswith("net_")]
    assert READ in counters(report)


def test_a_removed_or_reset_disk_keeps_the_sums() -> None:
    devices = Devices()
    for reads in ({"a": disk(10), "b": disk(5)}, {"a": disk(11)}, {"a": disk(2)}):
        devices.add(reads)
    report = Report()
    report.reading = devices.reading()
    assert counters(report)[READ] == 18


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (answer({}, "500 Internal Server Error"), "status 500"),
        (answer([1]), "not vm.counters"),
        (b"HTTP/1.1 200 \r\nContent-Length: 9000000\r\n\r\n", "more than 1 MiB"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"x" * (3 << 20), "does not speak HTTP"),
        (b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n[[[", "not vm.counters"),
        (b"HTTP/1.1 200 \r\nContent-Length: 30\r\n\r\n{}", "does not answer"),
    ],
)
def test_hostile_answers(data: bytes, why: str) -> None:
    report, _, refused = follow(data)
    assert why in str(refused)
    assert report.reading is None


@given(st.dictionaries(st.text(), st.dictionaries(
    st.sampled_from([*disk(0), *net(0)]), st.none() | st.integers() | st.floats() | st.text())))  # fmt: skip
def test_any_devices_are_counted_or_ignored(devices: dict[str, dict[str, object]]) -> None:
    sums = Devices()
    sums.add(parse(json.dumps(devices).encode()))
    assert all(value >= 0 for value in sums.reading().counters.values())
