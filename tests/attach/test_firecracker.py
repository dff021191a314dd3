"""Firecracker's metrics, from a fake that writes lines with the fields of its documentation and source.

The figures are made up; the fields are those of Firecracker 1.4, which has no times of block requests, and
of its main branch of 2026.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach import cli
from rondo_tools.attach.naming import Identity, PathTemplate
from rondo_tools.attach.sources import firecracker
from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.firecracker import FirecrackerAdapter, Sums, Tail
from rondo_tools.attach.sources.readings import DURATION, EXIT_DURATION, Reading, Report
from tests.support.attach.attach_host import ATTACH, Receiver, needs_kvm_and_bpf, own, small_guest, watching
from tests.support.needs import PATIENCE_S

READ = 'blk_requests_total{op="read"}'


def line(
    reads: int = 0, *, t_ms: int = 2_000_000_000_000, old: bool = False, missed: int = 0, exits: int = 0
) -> bytes:
    """A line of metrics, with `reads` of 4 KiB that took 50 us each, and `exits` of 3 us."""
    aggregate = {"min_us": 1, "max_us": 99, "sum_us": reads * 50}
    none = {"min_us": 0, "max_us": 0, "sum_us": 0}
    block = {
        "read_count": reads,
        "write_count": 0,
        "flush_count": 1,
        "read_bytes": reads * 4096,
        "write_bytes": 0,
    }
    vcpu = {"exit_io_in": exits, "exit_io_out": 0, "exit_mmio_read": 0, "exit_mmio_write": 0, "failures": 0}
    metrics = {
        "utc_timestamp_ms": t_ms,
        "block": block if old else block | {"read_agg": aggregate, "write_agg": none},
        "block_rootfs": block,
        "logger": {"missed_metrics_count": missed},
        "net": {"rx_bytes_count": 100, "rx_packets_count": 1, "tx_bytes_count": 300, "tx_packets_count": 2},
        "vcpu": vcpu if old else vcpu | {"exit_io_in_agg": {**none, "sum_us": exits * 3}},
    }
    return json.dumps(metrics, separators=(",", ":")).encode() + b"\n"


def sum_of(*lines: bytes, since_ms: int = 0) -> Sums:
    sums = Sums(since_ms)
    for one in b"".join(lines).split(b"\n"):
        sums.add(one)
    return sums


def counters(reading: Reading) -> dict[str, float]:
    return {str(series): value for series, value in reading.counters.items()}


# --- lines ---------------------------------------------------------------------------------------


def test_lines_flushed_by_others_count() -> None:
    reading = sum_of(line(), line(3, exits=10), line(4, exits=20)).reading()
    assert counters(reading) == {
        'blk_requests_total{op="read"}': 7,
        'blk_requests_total{op="write"}': 0,
        'blk_requests_total{op="flush"}': 3,
        'blk_bytes_total{direction="read"}': 7 * 4096,
        'blk_bytes_total{direction="write"}': 0,
        'net_bytes_total{direction="receive"}': 300,
        'net_bytes_total{direction="transmit"}': 900,
        'net_packets_total{direction="receive"}': 3,
        'net_packets_total{direction="transmit"}': 6,
    }
    assert reading.means == {DURATION: (7, 350_000), EXIT_DURATION: (30, 90_000)}


def test_a_version_without_times_has_no_means() -> None:
    reading = sum_of(line(3, old=True)).reading()
    assert counters(reading)[READ] == 3
    assert reading.means == {}


def test_a_truncated_line_is_skipped_and_the_next_one_counts() -> None:
    whole = line(5)
    assert counters(sum_of(whole[:200], whole).reading())[READ] == 5  # overrun by the next
    assert counters(sum_of(whole[:200] + b"\n", whole).reading())[READ] == 5
    assert counters(sum_of(whole[200:], whole).reading())[READ] == 5  # the end of one


def test_lines_of_another_vm_in_the_same_file_do_not_count() -> None:
    assert counters(sum_of(line(9, t_ms=999), line(2, t_ms=1000), since_ms=1000).reading())[READ] == 2


def test_invalid_numbers_count_as_nothing() -> None:
    hostile = {
        "utc_timestamp_ms": 1,
        "block": {"read_count": -1, "write_count": "9", "read_bytes": 1e9},
        "net": 7,
    }
    assert set(sum_of(json.dumps(hostile).encode()).reading().counters.values()) == {0}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_line_or_none(data: bytes) -> None:
    sums = Sums(0)
    sums.add(data)
    sums.add(line(1)[:-40] + data)


def test_deeply_nested_json_is_not_a_line() -> None:
    assert firecracker.parse(b"[" * 100_000) is None


def test_a_full_fifo_is_reported_once() -> None:
    sums = sum_of(line(missed=2))
    assert (sums.take_missed(), sums.take_missed()) == (True, False)


# --- files ---------------------------------------------------------------------------------------


def test_a_file_may_grow_be_truncated_and_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_bytes(b"one\ntw")
    tail = Tail(str(path))
    try:
        assert list(tail.lines()) == [b"one"]
        with path.open("ab") as file:
            file.write(b"o\n")
        assert list(tail.lines()) == [b"two"]
        path.write_bytes(b"3\n")
        assert list(tail.lines()) == [b"3"]
        new = tmp_path / "new"
        new.write_bytes(b"four\n")
        new.replace(path)
        assert list(tail.lines()) == [b"four"]
        path.unlink()
        assert list(tail.lines()) == []
    finally:
        tail.close()


def test_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    os.mkfifo(path)
    tail = Tail(str(path))
    try:
        assert list(tail.lines()) == []  # no writer has opened it
        writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # like Firecracker
        try:
            assert list(tail.lines()) == []
            os.write(writer, b"one\ntwo\nth")
            assert list(tail.lines()) == [b"one", b"two"]
        finally:
            os.close(writer)
    finally:
        tail.close()


def test_a_line_that_is_too_long_and_a_device(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_bytes(b"x" * (3 * firecracker.MAX_LINE_BYTES) + b"\nlast\n")
    tail = Tail(str(path))
    try:
        assert list(tail.lines()) == [b"last"]
    finally:
        tail.close()
    with pytest.raises(RefusedError, match="neither a file nor a FIFO"):
        Tail("/dev/zero")


# --- flushing ------------------------------------------------------------------------------------


class Api:
    """A fake API socket of Firecracker: each request for a flush writes a line, or is refused."""

    def __init__(self, path: Path, metrics: Path, answer: Callable[[int], bytes]) -> None:
        self.requests: list[bytes] = []
        self._metrics, self._answer = metrics, answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self.requests.append(peer.recv(1 << 12))
                answer = self._answer(len(self.requests))
                if answer:
                    if b" 204 " in answer:
                        with self._metrics.open("ab") as file:
                            file.write(line(1))
                    peer.sendall(answer)
                else:
                    peer.recv(1)  # hangs until the client gives up

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()


def test_a_flush_each_interval_even_after_refusals_and_hangs(tmp_path: Path) -> None:
    metrics, path = tmp_path / "vm.metrics", tmp_path / "vm.socket"
    metrics.write_bytes(line())
    answers = {1: b"HTTP/1.1 400 \r\n\r\n", 2: b""}
    api = Api(path, metrics, lambda number: answers.get(number, b"HTTP/1.1 204 \r\n\r\n"))
    report = Report()
    adapter = FirecrackerAdapter(
        PathTemplate(f"{tmp_path}/{{name}}.metrics"), PathTemplate(f"{tmp_path}/{{name}}.socket")
    )

    async def follow() -> None:
        target = Target(os.getpid(), Identity("vm", "--id", "firecracker"), 0.1)
        task = asyncio.create_task(adapter.follow(target, report))
        async with asyncio.timeout(PATIENCE_S):
            while not report.reading or counters(report.reading)[READ] < 3:
                await asyncio.sleep(0.01)
            report.is_last.set()
            await task

    try:
        asyncio.run(follow())
    finally:
        api.close()
    head, _, body = api.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /actions HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"action_type": "FlushMetrics"}


def test_flush_needs_firecracker(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--output", "unix:/nowhere", "--flush", "/run/{name}"]) == 64
    assert "--flush needs --firecracker" in capsys.readouterr().err


# --- the program ---------------------------------------------------------------------------------


def test_firecrackers_last_line_is_in_the_last_tick(receiver: Receiver, tmp_path: Path) -> None:
    metrics = tmp_path / f"{own('short')}.metrics"
    metrics.write_bytes(line())
    flags = ("--output", receiver.address, "--firecracker", f"{tmp_path}/{{name}}.metrics")
    with (
        watching(*flags, "--interval", "2s") as watcher,
        small_guest("--id", own("short"), program="firecracker") as guest,
    ):
        guest.do("make", "run 7")
        receiver.wait_for("short", lambda got: got.last().get(READ) == 0)
        with metrics.open("ab") as file:
            file.write(line(12))
        guest.quit()
        watcher.wait_for(own("short ends"))
        (session,) = receiver.wait("short", ended=1)
    assert session.last()[READ] == 12
    assert session.exits()["io"] == 7
    assert session.labels["vmm"] == "firecracker"


def test_list_shows_the_adapter_of_firecracker(tmp_path: Path) -> None:
    needs_kvm_and_bpf()
    (tmp_path / own("shown")).write_bytes(line())
    (tmp_path / "device").symlink_to("/dev/zero")

    def look(path: str) -> tuple[str, str]:
        command = [*ATTACH, "list", "--format", "json", "--firecracker", path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        found = json.loads(done.stdout)
        (adapters,) = [vm["adapters"] for vm in found["vms"] if vm["pid"] == guest.pid]
        return adapters, " ".join(
            one["why"] for one in found["refused"] if one["source"].startswith(own("shown,"))
        )

    with small_guest("--id", own("shown"), program="firecracker") as guest:
        guest.do("make")
        assert look(f"{tmp_path}/{{name}}") == ("firecracker", "")
        assert "neither a file nor a FIFO" in look(f"{tmp_path}/device")[1]
        os.mkfifo(tmp_path / "fifo")
        writer = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(writer, line())
            assert "a FIFO, which only the watcher may read" in look(f"{tmp_path}/fifo")[1]
            assert os.read(writer, 1 << 16) == line()  # the line was not read
        finally:
            os.close(writer)
