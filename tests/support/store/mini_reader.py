"""Reads stores of format 2, written from docs/formats.md alone: whole files, no index, no numpy."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack

SCHEMA, SESSION, ROWS, _, DESCRIPTIONS = range(1, 6)

Series = tuple[str, tuple[tuple[str, str], ...], str]  # name, labels, kind
Session = tuple[str, int]  # instance, start
Row = dict[tuple[Series, str], float]  # by series and aggregate


@dataclass
class Window:
    """`values` has of each counter the last value, of each gauge (n, sum, minimum, maximum)."""

    t_ms: int = 0
    values: dict[Series, tuple[float, ...]] = field(default_factory=dict)


def frames(path: Path, length: int | None = None) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Of each frame: its offset, kind, schema, entries and payload."""
    data = path.read_bytes()[:length]
    assert struct.unpack_from("<8sII", data) == (b"rondo\0\0\0", 2, int(path.name))
    seed, at = crc32(data[24:32]), 40
    while at + 48 <= len(data):
        size, kind, schema, entries, payload_crc = struct.unpack_from("<IBxHII", data, at)
        if crc32(data[at : at + 44], seed) != int.from_bytes(data[at + 44 : at + 48], "little"):
            at += 8
            continue
        payload = data[at + 48 : at + 48 + size]
        if len(payload) == size and crc32(payload, seed) == payload_crc:
            yield at, kind, schema, entries, payload
        at += 48 + size + -size % 8


def series_of(packed: bytes) -> list[Series]:
    return [(s["name"], tuple(sorted(s["labels"].items())), s["kind"]) for s in msgpack.unpackb(packed)]


def rows(
    path: Path, tier: int, length: int | None = None
) -> Iterator[tuple[tuple[int, int], Session, int, Row]]:
    """Of each row: (offset of its frame, place there), session, t_ms, {(series, aggregate): value}."""
    schemas: dict[int, list[tuple[Series, str]]] = {}
    sessions: dict[int, Session] = {}
    aggregates = {"counter": ["last"], "gauge": ["avg", "min", "max"] if tier else ["last"]}
    for at, kind, schema, _, payload in frames(path, length):
        if kind == SCHEMA:
            schemas[schema] = [(one, what) for one in series_of(payload) for what in aggregates[one[2]]]
        elif kind == SESSION:
            sessions |= {one[0]: (one[1], one[2]) for one in msgpack.Unpacker(BytesIO(payload)) if one}
        elif kind == ROWS:
            row = struct.Struct(f"<Iq{len(schemas[schema])}d")
            for place, (number, t_ms, *values) in enumerate(row.iter_unpack(payload)):
                if type(sessions[number][0]) is str:  # else it was forgotten
                    yield (at, place), sessions[number], t_ms, dict(zip(schemas[schema], values, strict=True))


def add_tick(window: Window, t_ms: int, row: Row) -> None:
    window.t_ms, known = t_ms, window.values
    for (series, _), value in row.items():
        if series[2] == "counter":
            known[series] = (value,) if not math.isnan(value) else known.get(series, (value,))
        elif not math.isnan(value):
            n, total, low, high = known.get(series, (0, 0.0, value, value))
            low, high = (min(low, value), max(high, value)) if n else (value, value)
            known[series] = n + 1, total + value, low, high


def coarse_row(window: Window) -> tuple[int, Row]:
    known = window.values
    row = {(s, "last"): known[s][0] for s in known if s[2] == "counter"}
    for s in (s for s in known if s[2] == "gauge" and known[s][0]):
        n, total, row[s, "min"], row[s, "max"] = known[s]
        row[s, "avg"] = total / n
    return window.t_ms, row


def open_windows(carry: dict[str, Any], tier: int) -> dict[tuple[Session, int], Window]:
    """{(session, number of the window): window}."""
    starts = [start for (start,) in struct.iter_unpack("<q72x", carry["live"])]
    sessions = [(name, start) for (name, _), start in zip(carry["names"], starts, strict=True)]
    found: dict[tuple[Session, int], Window] = {}
    for schema, *packed in carry["windows"][tier - 1]:
        columns = zip("qqqqdddd", packed, strict=True)
        slots, numbers, times, *gauges, last = (struct.iter_unpack(f"<{c}", data) for c, data in columns)
        for (slot,), (number,), (t_ms,) in zip(slots, numbers, times, strict=True):
            window = found[sessions[slot], number] = Window(t_ms)
            for one in series_of(carry["schemas"][schema]):
                of_one = [last] if one[2] == "counter" else gauges
                window.values[one] = tuple(next(column)[0] for column in of_one)
    return found


def by_window(
    ticks: Mapping[tuple[Session, int], Row], interval_ms: int
) -> dict[tuple[Session, int], list[tuple[int, Row]]]:
    found: dict[tuple[Session, int], list[tuple[int, Row]]] = {}
    for (session, t_ms), row in sorted(ticks.items()):
        found.setdefault((session, t_ms // interval_ms), []).append((t_ms, row))
    return found


def read(
    path: Path, intervals_ms: Sequence[int]
) -> tuple[
    dict[tuple[Session, int], Row],
    list[dict[tuple[Session, int], tuple[int, Row]]],
    dict[Session, list[Any]],
]:
    """Ticks {(session, t_ms): row}, for each coarse tier {(session, number of the window): (t_ms, row)}, and
    descriptions {session: array}, of a store that nobody writes and that has these intervals."""
    state = json.loads((path / "state.json").read_bytes())
    carry = msgpack.unpackb((path / f"carry_{state['carry']:010d}").read_bytes()[4:])

    def files(folder: str) -> list[tuple[Path, int]]:
        named = sorted((int(name), one["length"]) for name, one in state["files"].get(folder, {}).items())
        return [(path / folder / f"{name:010d}", length) for name, length in named]

    described: dict[Session, list[Any]] = {}
    ticks: dict[tuple[Session, int], Row] = {}
    fresh: dict[tuple[Session, int], Row] = {}
    for file, length in files("ended"):
        for _, kind, _, entries, payload in frames(file, length):
            if kind == DESCRIPTIONS:
                arrays = msgpack.Unpacker(BytesIO(payload[20 * entries :]))
                described |= {(one[0], one[1]): one for one in arrays if one}
    last = {
        (int(f.name), *at): (t_ms, row) for f, n in files("last_rows") for at, _, t_ms, row in rows(f, 0, n)
    }
    for session, (*_, places) in described.items():
        for number, offset, first, count in places:
            at_the_end = [last[number, offset, place] for place in range(first, first + count)]
            ticks |= {(session, t_ms): row for t_ms, row in at_the_end}
    for file in sorted((path / "tier_0").iterdir()):
        in_file = {(session, t_ms): row for _, session, t_ms, row in rows(file, 0)}
        ticks |= in_file
        fresh |= in_file if int(file.name) > state["rolled_up"] else {}
    coarse: list[dict[tuple[Session, int], tuple[int, Row]]] = []
    for tier, interval_ms in enumerate(intervals_ms[1:], 1):
        written = [row for file, n in files(f"tier_{tier}") for row in rows(file, tier, n)]
        coarse.append({(session, t_ms // interval_ms): (t_ms, row) for _, session, t_ms, row in written})
        windows, known = open_windows(carry, tier), by_window(ticks, interval_ms)
        for key, some in by_window(fresh, interval_ms).items():
            for t_ms, row in some if key in windows else known[key]:
                add_tick(windows.setdefault(key, Window()), t_ms, row)
        coarse[-1] |= {key: coarse_row(window) for key, window in windows.items()}
    return ticks, coarse, described
