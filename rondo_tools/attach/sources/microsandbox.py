"""microsandbox's counters of its sandboxes' disks and networks, from one `msb metrics --follow` for all.

Strategy: a child process writes a line of JSON for each sandbox twice an interval. It runs while a sandbox is
watched. A child that ends, hangs or writes invalid lines is restarted after a pause. A line has a sandbox's
name and no process id. So it counts for a watched process only if the name on the process's command line,
the owner of the folder, and the start of the sandbox match; if two processes match, for neither.

The child runs as the owner of the folder, without our capabilities.

From microsandbox's documentation and source: docs/cli/sandbox-commands.mdx, crates/cli/lib/commands/
metrics.rs (metrics_json). There, too, receive and transmit are the guest's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rondo_tools.attach.process import start_ticks
from rondo_tools.attach.sources.adapters import Target
from rondo_tools.attach.sources.readings import BLOCK_BYTES, MOST, NETWORK, Reading, Report
from rondo_tools.catalog import Series
from rondo_tools.printable import printable

_log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
MAX_INTERVAL_BYTES = 4 << 20  # of the child's output, enough for some 8,000 sandboxes
_SHORTEST_S = 0.1  # msb's shortest interval
_SILENT_S = 30.0  # a child without a line for this time is restarted
_EXIT_S = 1.0  # time for a child to exit after its output has ended
_LAST_LINE_S = 0.4  # time to wait for a dead sandbox's last line
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_EARLY_MS, _LATE_MS = 2_000, 60_000  # a sandbox may begin so long before or after its process
_AMBIENT, _CLEAR_ALL = 47, 4  # of prctl(2)

_FIELDS: tuple[tuple[str, Series], ...] = (
    ("disk_read_bytes", BLOCK_BYTES[0]),
    ("disk_write_bytes", BLOCK_BYTES[1]),
    ("net_rx_bytes", NETWORK[0]),
    ("net_tx_bytes", NETWORK[1]),
)


class Sample(NamedTuple):
    """A line: a sandbox's counters so far. `counters` are those present in the line."""

    name: str
    began_ms: float
    has_exited: bool
    counters: Mapping[Series, int]


class Follower:
    """A watched process with a sandbox's name."""

    def __init__(self, name: str, began_ms: float, report: Report) -> None:
        self.name, self.began_ms, self.report = name, began_ms, report
        self.has_last_line = asyncio.Event()  # of the sandbox
        self._sums: dict[Series, int] = {}
        self._last: Mapping[Series, int] = {}

    def fits(self, sample: Sample) -> bool:
        after_ms = sample.began_ms - self.began_ms
        return self.name == sample.name and -_EARLY_MS <= after_ms <= _LATE_MS

    def take(self, sample: Sample) -> None:
        for series, now in sample.counters.items():
            before = self._last.get(series, 0)
            self._sums[series] = self._sums.get(series, 0) + (now - before if now >= before else now)
        self._last = sample.counters
        if sample.counters:
            self.report.reading = Reading(dict(self._sums))
            self.report.refused = None
        if sample.has_exited:
            self.has_last_line.set()


class MicrosandboxAdapter:
    """`home` is the folder of microsandbox, such as /home/ci/.microsandbox."""

    name = "microsandbox"
    brings = "blk_bytes_total, net_bytes_total"

    def __init__(self, home: str, *, warns: bool = True) -> None:
        """It `warns` of a failing child, once for each reason."""
        self._home, self._warns = Path(home), warns
        self._followers: dict[int, Follower] = {}  # by process id
        self._listening: asyncio.Task[None] | None = None
        self._failure = ""  # the reason why there is no child

    async def follow(self, target: Target, report: Report) -> None:
        if report.is_last.is_set():
            return  # the VM is dead, and its last line has come
        if target.identity.vmm != "libkrun" or target.identity.name_from != "--name":
            raise EOFError("it is not a sandbox of microsandbox")
        if os.stat(f"/proc/{target.pid}").st_uid != self._owner().st_uid:
            raise EOFError(f"its user is not the owner of {self._home}")
        follower = report.kept(lambda: Follower(target.identity.name, _began_ms(target.pid), report))
        self._followers[target.pid] = follower
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen(target.interval_s))
        try:
            while not await report.dies_within(target.interval_s):
                if self._failure or report.reading is None:
                    report.refused = self._failure or "msb does not list this sandbox", ""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_LINE_S):
                    await follower.has_last_line.wait()
        finally:
            del self._followers[target.pid]
            if not self._followers and self._listening is not None:
                listening, self._listening = self._listening, None
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening  # until the child is gone

    def _owner(self) -> os.stat_result:
        """The owner of the sandboxes. Raises OSError or EOFError."""
        try:
            owner = os.stat(self._home)
        except OSError as exc:
            self._fail(f"{self._home}: {exc.strerror}")
            raise EOFError(self._failure) from None
        if os.geteuid() not in (0, owner.st_uid):
            self._fail(f"{self._home} is another user's: run rondo-attach as that user, or as root")
            raise EOFError(self._failure)
        return owner

    async def _listen(self, interval_s: float) -> None:
        """Run a child while there are processes to follow."""
        pause_s = _FIRST_PAUSE_S
        while True:
            before = [one.report.reading for one in self._followers.values()]
            try:
                why = await self._hear(interval_s)
            except TimeoutError:  # it hangs, or lists no sandbox
                why = ""
            except OSError as exc:
                why = f"msb: {exc.strerror}: {exc.filename}" if exc.filename else f"msb: {exc}"
            except EOFError as exc:
                why = str(exc)
            if before != [one.report.reading for one in self._followers.values()]:
                pause_s = _FIRST_PAUSE_S
            if why:
                self._fail(why)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _fail(self, why: str) -> None:
        why = printable(why)[:500]
        if self._warns and why != self._failure:
            _log.warning("no microsandbox: %s", why)
        self._failure = why
        for one in self._followers.values():
            one.report.refused = why, ""

    async def _hear(self, interval_s: float) -> str:
        """Take the lines of one child; returns the reason of its end. Raises OSError or EOFError."""
        child = self._start(interval_s)
        assert child.stdout is not None
        assert child.stderr is not None
        lines = asyncio.StreamReader(MAX_LINE_BYTES)
        connecting = asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), child.stdout
        )
        transport = None
        try:
            transport, _ = await connecting
            return await self._take_lines(lines, interval_s) or await _last_words(child)
        finally:
            child.kill()
            child.stderr.close()
            (transport or child.stdout).close()
            reaped = asyncio.ensure_future(asyncio.to_thread(child.wait))
            try:
                await asyncio.shield(reaped)
            except asyncio.CancelledError:
                await reaped
                raise

    async def _take_lines(self, lines: asyncio.StreamReader, interval_s: float) -> str:
        """Take lines until they end; returns what is wrong with them. Raises TimeoutError if none comes."""
        now_s = asyncio.get_running_loop().time
        size, until_s = 0, now_s() + interval_s
        while True:
            try:
                async with asyncio.timeout(_SILENT_S):
                    line = await lines.readline()
            except ValueError:
                return f"msb writes a line of more than {MAX_LINE_BYTES >> 20} MiB"
            if not line.endswith(b"\n"):
                return ""
            if now_s() > until_s:
                size, until_s = 0, now_s() + interval_s
            size += len(line)
            if size > MAX_INTERVAL_BYTES:
                return f"msb writes more than {MAX_INTERVAL_BYTES >> 20} MiB in an interval"
            sample = parse(line)
            if sample is not None:
                self._failure = ""
                self._take(sample)
            await asyncio.sleep(0)  # let other tasks run

    def _take(self, sample: Sample) -> None:
        fitting = [one for one in self._followers.values() if one.fits(sample)]
        if len(fitting) == 1:
            fitting[0].take(sample)
        for one in fitting[1:] and fitting:
            one.report.refused = f"{len(fitting)} processes have the name {sample.name}", ""

    def _start(self, interval_s: float) -> subprocess.Popen[bytes]:
        program = shutil.which("msb", path=f"{self._home / 'bin'}:{os.environ.get('PATH', os.defpath)}")
        if program is None:
            raise EOFError(f"msb is neither in {self._home}/bin nor on PATH")
        ctypes.CDLL(None).prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)  # of this thread, which starts all children
        owner = self._owner()
        identity: dict[str, Any] = {}
        if os.geteuid() == 0 and owner.st_uid != 0:
            identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        every_ms = round(max(interval_s / 2, _SHORTEST_S) * 1000)
        return subprocess.Popen(  # noqa: S603 - as its owner, who alone may write there
            [program, "metrics", "--follow", "--all", "--interval", f"{every_ms}ms"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "MSB_HOME": str(self._home), "HOME": str(self._home.parent)},
            cwd="/",
            **identity,
        )


async def _last_words(child: subprocess.Popen[bytes]) -> str:
    """The reason of a child's end, from its standard error."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(child.wait, _EXIT_S)
    assert child.stderr is not None
    os.set_blocking(child.stderr.fileno(), False)
    output = child.stderr.read(1 << 12) or b""
    lines = output.decode(errors="replace").strip().splitlines()
    return f"msb ended{f': {lines[-1]}' if lines else ''}"


def parse(line: bytes) -> Sample | None:
    """Parse a line of `msb metrics --follow`; None for anything else."""
    try:
        fields = json.loads(line)
        taken_ms = datetime.fromisoformat(fields["timestamp"]).timestamp() * 1000
        began_ms = taken_ms - float(fields["uptime_secs"]) * 1000
        name, state = fields["name"], fields["state"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    counters = {series: value for field, series in _FIELDS if _is_count(value := fields.get(field))}
    return Sample(name, began_ms, state == "exited", counters)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST


def _began_ms(pid: int) -> float:
    """The start of a process in Unix milliseconds. Raises OSError."""
    ticks = start_ticks(Path(f"/proc/{pid}/stat").read_bytes())
    since_boot_s = ticks / os.sysconf("SC_CLK_TCK")
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return (booted_s + since_boot_s) * 1000
