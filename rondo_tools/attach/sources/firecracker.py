"""Firecracker's own metrics: the lines that it writes to a file or a FIFO.

Strategy: a line has the counts since the line before, whichever program requested that one; so the sum over
all lines is the count. Firecracker writes a line every 60 seconds and a last one at its end; with a `flush`
socket it is asked for one each interval. A truncated line, or one overrun by the next, is skipped. Lines
older than the session are another VM's.

From Firecracker's documentation and source: docs/metrics.md, docs/api_requests/actions.md (FlushMetrics),
src/vmm/src/logger/metrics.rs, and the metrics.rs of its block and network devices. There, too, receive and
transmit are the guest's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping

from rondo_tools.attach.naming import PathTemplate
from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.readings import (
    BLOCK,
    DURATION,
    EXIT_DURATION,
    NETWORK,
    Reading,
    Report,
    Spent,
    count_of,
)
from rondo_tools.attach.sources.unix_http import ask
from rondo_tools.ratelimit import RateLimit

_log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
_PIECE_BYTES, _MOST_PIECES = 1 << 18, 16  # read in one interval
_BACKLOG_BYTES = 16 << 20  # the end of an existing file that is read
_BEGIN = b'{"utc_timestamp_ms"'  # the start of every line
_ACTION = b'{"action_type": "FlushMetrics"}'
_DEADLINE = 0.4  # of an interval, for the answer to a flush

_BLOCK_FIELDS = ("read_count", "write_count", "flush_count", "read_bytes", "write_bytes")
_NETWORK_FIELDS = ("rx_bytes_count", "tx_bytes_count", "rx_packets_count", "tx_packets_count")
_EXIT_FIELDS = ("exit_io_in", "exit_io_out", "exit_mmio_read", "exit_mmio_write")


class FirecrackerAdapter:
    """`template` is the path of a VM's metrics, `flush` that of its API socket.

    A line of a FIFO can be read only once: without `takes_lines` they are left to the watcher.
    """

    name = "firecracker"
    brings = "blk_*, net_*, vcpu_exit_duration_ns"

    def __init__(
        self, template: PathTemplate, flush: PathTemplate | None = None, *, takes_lines: bool = True
    ) -> None:
        self._template, self._flush, self._takes_lines = template, flush, takes_lines
        self._warnings = RateLimit(_log, burst=10, window_s=60.0)

    async def follow(self, target: Target, report: Report) -> None:
        if report.is_last.is_set() and report.reading is not None:
            return  # the VM is dead, and its last line was read
        socket_path = target.path(self._flush) if self._flush is not None else ""
        tail = Tail(target.path(self._template))
        sums = Sums(target.since_ms)
        try:
            if tail.is_fifo and not self._takes_lines:
                raise RefusedError("its metrics are a FIFO, which only the watcher may read")
            while True:
                if socket_path and not report.is_last.is_set():
                    await self._ask(socket_path, target)
                for line in tail.lines():
                    sums.add(line)
                    await asyncio.sleep(0)  # let other tasks run
                if sums.lines:
                    report.reading, report.refused = sums.reading(), None
                if sums.take_missed():
                    self._warnings.warn(
                        "missed",
                        "%s: Firecracker could not write %s: their counts are lost",
                        *(target.identity.name, "some of its metrics"),
                    )
                if report.is_last.is_set():
                    return
                await report.dies_within(target.until_due_s(time.time()))
        finally:
            tail.close()

    async def _ask(self, path: str, target: Target) -> None:
        """Request a line. A VM that is not booted refuses; one that hangs is not waited for."""
        try:
            async with asyncio.timeout(target.interval_s * _DEADLINE):
                await ask(path, target.pid, "PUT", "/actions", _ACTION)
        except (OSError, EOFError, TimeoutError, RefusedError) as exc:
            self._warnings.warn("flush", "%s: no flush: %s", target.identity.name, exc or "no answer")


class Tail:
    """Whole lines of a file as it grows, or of a FIFO."""

    def __init__(self, path: str) -> None:
        """Raises OSError, or RefusedError for any other kind of file."""
        self._path = path
        self._rest = b""
        self._skips = False  # up to the end of a line that is too long, or whose start was not read
        self._open()

    def lines(self) -> Iterator[bytes]:
        """The new lines, up to 4 MiB; the rest comes with the next call."""
        for _ in range(_MOST_PIECES):
            if not (piece := self._read()):
                return
            *lines, rest = (self._rest + piece).split(b"\n")
            for line in lines:
                if not self._skips:
                    yield line
                self._skips = False
            if len(rest) > MAX_LINE_BYTES:
                rest, self._skips = b"", True
            self._rest = rest

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> None:
        # Check before opening: the folder's owner could have put a device there.
        handle = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            self.is_fifo = stat.S_ISFIFO(status.st_mode)
            if not self.is_fifo and not stat.S_ISREG(status.st_mode):
                raise RefusedError(f"{self._path} is neither a file nor a FIFO")
            try:
                self._fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as exc:
                raise type(exc)(exc.errno, exc.strerror, self._path) from exc
        finally:
            os.close(handle)
        self._at = 0
        if not self.is_fifo and status.st_size > _BACKLOG_BYTES:
            self._at, self._skips = status.st_size - _BACKLOG_BYTES, True

    def _read(self) -> bytes:
        try:
            if self.is_fifo:
                return os.read(self._fd, _PIECE_BYTES)
            piece = os.pread(self._fd, _PIECE_BYTES, self._at)
            if not piece:
                self._look_for_rotation()
                piece = os.pread(self._fd, _PIECE_BYTES, self._at)
        except OSError:  # an empty FIFO, or a file that is being replaced
            return b""
        self._at += len(piece)
        return piece

    def _look_for_rotation(self) -> None:
        """Read a truncated file from its beginning, and one that replaced it, too."""
        mine = os.fstat(self._fd)
        if mine.st_size < self._at:
            self._at, self._rest, self._skips = 0, b"", False
        there = os.stat(self._path)
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            before = self._fd
            with contextlib.suppress(RefusedError):
                self._open()
                os.close(before)
                self._rest, self._skips = b"", False


class Sums:
    """The sums over all lines."""

    def __init__(self, since_ms: int) -> None:
        self._since_ms = since_ms
        self._block = [0] * len(_BLOCK_FIELDS)
        self._network = [0] * len(_NETWORK_FIELDS)
        self._means: dict[str, tuple[int, int]] = {}  # the number, and their microseconds
        self._missed = False
        self.lines = 0

    def add(self, line: bytes) -> None:
        metrics = parse(line)
        if metrics is None or count_of(metrics.get("utc_timestamp_ms")) < self._since_ms:
            return
        self.lines += 1
        block, network, vcpu = (_part(metrics, name) for name in ("block", "net", "vcpu"))
        _add(self._block, block, _BLOCK_FIELDS)
        _add(self._network, network, _NETWORK_FIELDS)
        self._spend("block", block, {"read_count": "read_agg", "write_count": "write_agg"})
        self._spend("vcpu", vcpu, {field: f"{field}_agg" for field in _EXIT_FIELDS})
        self._missed |= count_of(_part(metrics, "logger").get("missed_metrics_count")) > 0

    def take_missed(self) -> bool:
        """Whether lines were lost since the last call."""
        missed, self._missed = self._missed, False
        return missed

    def reading(self) -> Reading:
        counters = dict(zip((*BLOCK, *NETWORK), (*self._block, *self._network), strict=True))
        means = {
            series: Spent(self._means[name][0], self._means[name][1] * 1000)
            for name, series in (("block", DURATION), ("vcpu", EXIT_DURATION))
            if name in self._means
        }
        return Reading(counters, means)

    def _spend(self, name: str, part: Mapping[str, object], fields: Mapping[str, str]) -> None:
        """Add counts and times; older versions have no times."""
        for count, aggregate in fields.items():
            if aggregate in part:
                counted, micros = self._means.get(name, (0, 0))
                sum_us = count_of(_part(part, aggregate).get("sum_us"))
                self._means[name] = counted + count_of(part.get(count)), micros + sum_us


def parse(line: bytes) -> Mapping[str, object] | None:
    """A line, or the complete one behind a truncated one; None if there is none."""
    for at in (0, max(line.rfind(_BEGIN), 0)):
        with contextlib.suppress(ValueError, RecursionError):
            metrics = json.loads(line[at:])
            if isinstance(metrics, dict):
                return metrics
    return None


def _part(metrics: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = metrics.get(name)
    return part if isinstance(part, dict) else {}


def _add(sums: list[int], part: Mapping[str, object], fields: tuple[str, ...]) -> None:
    for at, field in enumerate(fields):
        sums[at] += count_of(part.get(field))
