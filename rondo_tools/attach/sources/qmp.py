"""QEMU's block metrics and its guest's end reason, over a QMP socket that has no other client.

Strategy: one `query-blockstats` an interval, and events as they come. A QMP socket serves one client at a
time, so one with a client is left alone, and libvirt's is never used. It must be the socket of the watched
process itself. QEMU's data is not trusted: a line has at most 1 MiB, an interval 4 MiB, and an invalid number
counts as none.

From QEMU's documentation: docs/interop/qmp-spec, qapi/block-core.json (BlockStats), qapi/run-state.json
(SHUTDOWN, ShutdownCause).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence

from rondo_tools.attach import naming
from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.peer import connect_alone
from rondo_tools.attach.sources.readings import BLOCK, DURATION, Reading, Report, Spent, Totals, count_of

MAX_LINE_BYTES = 1 << 20
MAX_INTERVAL_BYTES = 4 << 20
_GREETING_S = 10.0

_CAPABILITIES = b'{"execute":"qmp_capabilities"}\n'
_QUERY = b'{"execute":"query-blockstats"}\n'
_COUNTERS = ("rd_operations", "wr_operations", "flush_operations", "rd_bytes", "wr_bytes")
_TIMES = ("rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns")
_CAUSES = {
    "guest-shutdown": "poweroff",
    "guest-reset": "reset",
    "guest-panic": "shutdown",
    "host-signal": "signal",
}


class QmpAdapter:
    """`template` is the path of a VM's socket."""

    name = "qmp"
    brings = "blk_*"

    def __init__(self, template: naming.PathTemplate) -> None:
        self._template = template

    async def follow(self, target: Target, report: Report) -> None:
        path = target.path(self._template)
        reader, writer = await asyncio.open_unix_connection(
            sock=connect_alone(path, target.pid), limit=MAX_LINE_BYTES
        )
        try:
            await _converse(reader, writer, target, report)
        finally:
            writer.transport.abort()


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, report: Report
) -> None:
    try:
        async with asyncio.timeout(_GREETING_S):
            greeting = parse(await _line(reader))
    except TimeoutError:
        raise RefusedError("it sends no greeting: it hangs, or has another client") from None
    if "QMP" not in greeting:
        raise RefusedError("it does not speak QMP")
    writer.write(_CAPABILITIES)
    asked, size = _CAPABILITIES, 0  # the unanswered request, and the bytes received since
    totals = report.kept(lambda: Totals(len(_COUNTERS) + len(_TIMES)))
    while True:
        try:
            async with asyncio.timeout(None if asked else target.until_due_s(time.time())):
                line = await _line(reader)
        except TimeoutError:
            writer.write(_QUERY)
            asked, size = _QUERY, 0
            continue
        size += len(line)
        if size > MAX_INTERVAL_BYTES:
            raise RefusedError(f"it sends more than {MAX_INTERVAL_BYTES >> 20} MiB in an interval")
        message = parse(line)
        if "event" in message:
            reason = end_reason(message)
            report.end_reason = report.end_reason if reason is None else reason
        elif "error" in message:
            raise RefusedError(f"it answers with an error: {message['error']}"[:200])
        elif asked == _CAPABILITIES:
            writer.write(_QUERY)  # at once, because a VM may be short-lived
            asked = _QUERY
        elif asked:
            report.reading = reading_of(message.get("return"), totals)
            report.refused = None
            asked = b""


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ValueError:
        raise RefusedError(f"it sends a line of more than {MAX_LINE_BYTES >> 20} MiB") from None
    if not line.endswith(b"\n"):
        raise EOFError("it closed the connection")
    return line


def parse(line: bytes) -> Mapping[str, object]:
    """A message of QMP. Raises RefusedError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusedError("it sends invalid JSON") from None
    if not isinstance(message, dict):
        raise RefusedError("it sends JSON that is not a QMP message")
    return message


def end_reason(event: Mapping[str, object]) -> str | None:
    """The end reason in an event; "" if the guest continues; None if the event does not matter."""
    kind, data = event.get("event"), event.get("data")
    if kind in ("RESET", "RESUME"):
        return ""
    if kind == "GUEST_PANICKED":
        return "shutdown"
    if kind == "SHUTDOWN":
        cause = data.get("reason") if isinstance(data, dict) else None
        return _CAUSES.get(cause, "") if isinstance(cause, str) else ""
    return None


def devices_of(answer: object) -> dict[str, Sequence[int]]:
    """The counters of each device, in an answer to query-blockstats."""
    devices: dict[str, Sequence[int]] = {}
    for one in answer if isinstance(answer, list) else ():
        if not isinstance(one, dict) or not isinstance(stats := one.get("stats"), dict):
            continue
        # The node of a drive changes with each snapshot; the device does not.
        name = next((one[key] for key in ("qdev", "device", "node-name") if one.get(key)), None)
        if isinstance(name, str):
            devices[name] = [count_of(stats.get(key)) for key in (*_COUNTERS, *_TIMES)]
    return devices


def reading_of(answer: object, totals: Totals) -> Reading:
    totals.add(devices_of(answer))
    counters, times = totals.sums[: len(_COUNTERS)], totals.sums[len(_COUNTERS) :]
    return Reading(dict(zip(BLOCK, counters, strict=True)), {DURATION: Spent(sum(counters[:3]), sum(times))})
