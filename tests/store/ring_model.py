"""What a store must hold, worked out the slow and obvious way: the tests' second opinion.

Nothing here is taken from the code under test but the names of the aggregates and Tier, a pair of
numbers. A slab is built as bytes, whole, from the list of all ticks that a session ever got.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

from rondo_tools.catalog import COUNTER, SERIES, Series
from rondo_tools.store.tiers import Tier
from rondo_tools.stream import Header, Tick

NAN = float("nan")
T0 = 1_732_300_200_000  # a multiple of five minutes

COUNTS = Series("requests_total", (), "counter", "requests", "Requests.")
LEVEL = Series("level", (), "gauge", "bytes", "Level.")


def header(series: Sequence[Series] = SERIES, instance: str = "vm-1", start_ms: int = T0 - 1) -> Header:
    return Header(instance, start_ms, (), 1000, tuple(series))


def tick(t_ms: int, *values: float) -> Tick:
    return Tick(t_ms, struct.pack(f"<{len(values)}d", *values))


def ticks(count: int, begin_ms: int = T0, step_ms: int = 1000, width: int = len(SERIES)) -> list[Tick]:
    """Ticks in a row, each value of them another."""
    return [
        tick(begin_ms + i * step_ms, *(i * 1000.0 + column / 8 for column in range(width)))
        for i in range(count)
    ]


def accepted(all_ticks: Iterable[Tick]) -> list[Tick]:
    """Those that are past all before them."""
    last_ms, kept = 0, []
    for one in all_ticks:
        if one.t_ms > last_ms:
            kept.append(one)
            last_ms = one.t_ms
    return kept


def roll_up(series: Sequence[Series], rows: Sequence[tuple[float, ...]]) -> list[float]:
    """The coarse row of one window from its rows in time order."""
    row: list[float] = []
    for one, values in zip(series, zip(*rows, strict=True), strict=True):
        there = [value for value in values if value == value]
        if one.kind == COUNTER:
            row += [there[-1] if there else NAN]
        elif not there:
            row += [NAN] * 3
        else:
            total = 0.0
            for value in there:
                total += value
            low = high = there[0]
            for value in there:
                low = value if value < low else low
                high = value if value > high else high
            row += [total / len(there), low, high]
    return [NAN if value != value else value + 0.0 for value in row]


def bits(values: Iterable[float]) -> bytes:
    """As bytes, NaN canonical and without a sign: inf - inf has one on x86."""
    return b"".join(
        struct.pack("<d", value) if value == value else bytes.fromhex("000000000000f87f") for value in values
    )


def row_bytes(t_ms: int, values: bytes) -> bytes:
    body = struct.pack("<Q", t_ms) + values + bytes(4)
    return body + struct.pack("<I", zlib.crc32(body))


def slab_bytes(tier: Tier, columns: int, rows: Iterable[tuple[int, bytes]]) -> bytes:
    """A slab into which `rows` were written one after the other."""
    head = b"RNDO" + struct.pack("<HHQII", 1, 0, tier.interval_ms, tier.slots, columns) + bytes(36)
    slots = [bytes(16 + 8 * columns)] * tier.slots
    for t_ms, values in rows:
        slots[t_ms // tier.interval_ms % tier.slots] = row_bytes(t_ms, values)
    return head + struct.pack("<I", zlib.crc32(head)) + b"".join(slots)


def slabs(
    series: Sequence[Series], tiers: Sequence[Tier], all_ticks: Iterable[Tick], *, finished: bool = False
) -> list[bytes]:
    """The bytes of each tier's slab after a writer was given `all_ticks`, in whatever pieces."""
    kept = accepted(all_ticks)
    by_slot = {one.t_ms // tiers[0].interval_ms: one for one in kept}  # the last one of a slot wins
    files = [slab_bytes(tiers[0], len(series), by_slot.values())]
    coarsest_ms = tiers[-1].interval_ms
    open_window = kept[-1].t_ms // coarsest_ms if kept and not finished else None
    for tier in tiers[1:]:
        windows: dict[int, list[Tick]] = {}
        for one in by_slot.values():
            if one.t_ms // coarsest_ms != open_window:
                windows.setdefault(one.t_ms // tier.interval_ms, []).append(one)
        rows = [
            (
                window[-1].t_ms,
                bits(roll_up(series, [struct.unpack(f"<{len(series)}d", one.values) for one in window])),
            )
            for window in windows.values()
        ]
        columns = sum(1 if one.kind == COUNTER else 3 for one in series)
        files.append(slab_bytes(tier, columns, rows))
    return files
