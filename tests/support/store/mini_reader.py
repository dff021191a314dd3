"""Reads stores of format 2, written from docs/formats.md alone: whole files, no index, no numpy."""

import json
import math
import struct
from io import BytesIO
from zlib import crc32

import msgpack

SCHEMA, SESSION, ROWS, _, DESCRIPTIONS = range(1, 6)


def frames(path, length=None):
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


def series_of(packed):
    return [(s["name"], tuple(sorted(s["labels"].items())), s["kind"]) for s in msgpack.unpackb(packed)]


def rows(path, tier, length=None):
    """Of each row: (offset of its frame, place there), session, t_ms, {(series, aggregate): value}."""
    schemas, sessions = {}, {}
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


def add_tick(window, t_ms, row):
    """`window` has "t_ms", of each counter the last value, of each gauge (n, sum, minimum, maximum)."""
    window["t_ms"] = t_ms
    for (series, _), value in row.items():
        if series[2] == "counter":
            window[series] = (value,) if not math.isnan(value) else window.get(series, (value,))
        elif not math.isnan(value):
            n, total, low, high = window.get(series, (0, 0.0, value, value))
            low, high = (min(low, value), max(high, value)) if n else (value, value)
            window[series] = n + 1, total + value, low, high


def coarse_row(window):
    row = {(s, "last"): window[s][0] for s in window if s[2] == "counter"}
    for s in (s for s in window if s[2] == "gauge" and window[s][0]):
        n, total, row[s, "min"], row[s, "max"] = window[s]
        row[s, "avg"] = total / n
    return window["t_ms"], row


def open_windows(carry, tier):
    """{(session, number of the window): window}."""
    starts = [start for (start,) in struct.iter_unpack("<q72x", carry["live"])]
    sessions = [(name, start) for (name, _), start in zip(carry["names"], starts, strict=True)]
    found = {}
    for schema, *packed in carry["windows"][tier - 1]:
        columns = zip("qqqqdddd", packed, strict=True)
        slots, numbers, times, *gauges, last = (struct.iter_unpack(f"<{c}", data) for c, data in columns)
        for (slot,), (number,), (t_ms,) in zip(slots, numbers, times, strict=True):
            window = found[sessions[slot], number] = {"t_ms": t_ms}
            for one in series_of(carry["schemas"][schema]):
                of_one = [last] if one[2] == "counter" else gauges
                window[one] = tuple(next(column)[0] for column in of_one)
    return found


def by_window(ticks, interval_ms):
    found = {}
    for (session, t_ms), row in sorted(ticks.items()):
        found.setdefault((session, t_ms // interval_ms), []).append((t_ms, row))
    return found


def read(path, intervals_ms):
    """Ticks {(session, t_ms): row}, for each coarse tier {(session, number of the window): (t_ms, row)}, and
    descriptions {session: array}, of a store that nobody writes and that has these intervals."""
    state = json.loads((path / "state.json").read_bytes())
    carry = msgpack.unpackb((path / f"carry_{state['carry']:010d}").read_bytes()[4:])

    def files(folder):
        named = sorted((int(name), one["length"]) for name, one in state["files"].get(folder, {}).items())
        return [(path / folder / f"{name:010d}", length) for name, length in named]

    told, ticks, fresh = {}, {}, {}
    for file, length in files("ended"):
        for _, kind, _, entries, payload in frames(file, length):
            if kind == DESCRIPTIONS:
                all_told = msgpack.Unpacker(BytesIO(payload[20 * entries :]))
                told |= {(one[0], one[1]): one for one in all_told if one}
    last = {
        (int(f.name), *at): (t_ms, row) for f, n in files("last_rows") for at, _, t_ms, row in rows(f, 0, n)
    }
    for session, (*_, places) in told.items():
        for file, offset, first, count in places:
            some = [last[file, offset, place] for place in range(first, first + count)]
            ticks |= {(session, t_ms): row for t_ms, row in some}
    for file in sorted((path / "tier_0").iterdir()):
        some = {(session, t_ms): row for _, session, t_ms, row in rows(file, 0)}
        ticks |= some
        fresh |= some if int(file.name) > state["rolled_up"] else {}
    coarse = []
    for tier, interval_ms in enumerate(intervals_ms[1:], 1):
        written = [row for file, n in files(f"tier_{tier}") for row in rows(file, tier, n)]
        coarse.append({(session, t_ms // interval_ms): (t_ms, row) for _, session, t_ms, row in written})
        windows, known = open_windows(carry, tier), by_window(ticks, interval_ms)
        for key, some in by_window(fresh, interval_ms).items():
            for t_ms, row in some if key in windows else known[key]:
                add_tick(windows.setdefault(key, {"t_ms": 0}), t_ms, row)
        coarse[-1] |= {key: coarse_row(window) for key, window in windows.items()}
    return ticks, coarse, told
