"""Writes journals for tests, reads the results of roll-ups, and computes the expected ones.

`expected_rows` is brute force: a plain loop over ticks, which shares nothing with the roll-up.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.carry import parse_carry
from rondo_tools.store.compaction import Result, roll_up
from rondo_tools.store.derived import MAX_FILE
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import (
    INDEX,
    Description,
    EndRecord,
    SessionKey,
    SessionRecord,
    descriptions_in,
    ends_in,
    pack_ends,
    sessions_in,
)
from rondo_tools.store.format.schema import AVG, LAST, MAX, MIN, Schema, schema_of, union
from rondo_tools.store.format.state import State, parse_state
from rondo_tools.store.format.tiers import Tier, parse_tiers
from rondo_tools.store.frame_writer import FrameWriter
from rondo_tools.store.remembered import Remembered

STORE_ID = b"store-id"
TIERS = parse_tiers("1s:10m,10s:6h,5m:7d")
T0 = 1_732_300_000_000


def series(*names: str) -> Schema:
    """A schema of these series: names that begin with c are counters."""
    return schema_of(tuple(Series(name, (), COUNTER if name[0] == "c" else GAUGE, "", "") for name in names))


A, B, C = series("c1", "g1", "g2"), series("c1", "g1", "c2"), series("g2", "c1")


class Tick(NamedTuple):
    t_ms: int
    schema: Schema
    values: tuple[float, ...]


class Session(NamedTuple):
    instance: str
    start_ms: int = T0
    interval_ms: int = 1000
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms


class Journal:
    """Journal `number`. `last_ms` has the last earlier tick of sessions, by key."""

    def __init__(self, layout: Layout, number: int, last_ms: dict[SessionKey, int] | None = None) -> None:
        layout.folder(JOURNALS).mkdir(parents=True, exist_ok=True)
        self.last_ms = {} if last_ms is None else last_ms
        self.path = layout.file(JOURNALS, number)
        self.writer = FrameWriter(self.path, frames.new_file(number, STORE_ID))
        self.number = number

    def declare(self, session: Session) -> int:
        def record(number: int) -> SessionRecord:
            others = [
                t for key, t in self.last_ms.items() if key[0] == session.instance and key != session.key
            ]
            return SessionRecord(number, *session, self.last_ms.get(session.key, 0), max(others, default=0))

        return self.writer.session(session.key, record)

    def ticks(self, session: Session, ticks: Iterable[Tick]) -> None:
        """A frame for each run of ticks of one schema."""
        run: list[Tick] = []
        for tick in (*ticks, None):
            if run and (tick is None or tick.schema is not run[0].schema):
                self.rows([(session, one) for one in run])
                run = []
            if tick is not None:
                run.append(tick)

    def rows(self, some: list[tuple[Session, Tick]]) -> None:
        """One frame of ticks of one schema."""
        schema = some[0][1].schema
        rows = np.zeros(len(some), frames.row_dtype(schema.width))
        rows["session"] = [self.declare(session) for session, _ in some]
        rows["t_ms"] = [tick.t_ms for _, tick in some]
        rows["values"] = [tick.values for _, tick in some]
        number = self.writer.schema(schema)
        for frame in frames.rows_frames(self.writer.seed, rows, number):
            self.writer.add(frame)
        for session, tick in some:
            self.last_ms[session.key] = max(self.last_ms.get(session.key, 0), tick.t_ms)

    def end(self, session: Session, reason: str, t_ms: int = 0) -> None:
        last_ms = self.last_ms.get(session.key, 0)
        record = EndRecord(self.declare(session), t_ms or last_ms, reason, last_ms)
        self.writer.add(frames.frame(self.writer.seed, frames.END, pack_ends([record])))

    def close(self) -> None:
        self.writer.write()
        self.writer.sync()
        self.writer.close()


# --- the content of files -------------------------------------------------------------------------------

Row = tuple[int, dict[tuple[str, str], bytes]]
"""The time of the last tick, and the bits of each (series, aggregate)."""


def bits(value: float) -> bytes:
    return b"NaN" if math.isnan(value) else struct.pack("<d", value + 0.0)


class Stored(NamedTuple):
    """Coarse rows by session and window, the later of equal ones; the number of all; their origins."""

    rows: dict[SessionKey, dict[int, Row]]
    counted: int
    origins: dict[tuple[SessionKey, int], int]


def stored_rows(layout: Layout, state: State, tier: int, interval_ms: int) -> Stored:
    """All rows of a tier, read frame by frame; INDEX frames are compared with them."""
    found = Stored({}, 0, {})
    count = 0
    for head, schema, rows, sessions in rows_frames(layout, state, tier_name(tier), tier):
        assert len(set(rows["session"].tolist())) <= 64
        assert (np.diff(rows["session"].astype(int)) >= 0).all(), "in session order"
        names = [(schema.series[column.series].name, column.aggregate) for column in schema.coarse]
        for number, t_ms, values in zip(
            *(rows[one].tolist() for one in ("session", "t_ms", "values")), strict=True
        ):
            record = sessions[number]
            named = dict(zip(names, map(bits, values), strict=True))
            found.rows.setdefault(record.key, {})[t_ms // interval_ms] = t_ms, named
            found.origins[record.key, t_ms // interval_ms] = head.origin
            count += 1
    return found._replace(counted=count)


def rows_frames(
    layout: Layout, state: State, folder: str, tier: int
) -> Iterator[tuple[frames.Frame, Schema, frames.Rows, dict[int, SessionRecord]]]:
    for number, file in sorted(state.files.get(folder, {}).items()):
        with FrameFile(layout.file(folder, number)) as opened:
            assert opened.size >= file.length
            sessions: dict[int, SessionRecord] = {}
            for at, head, payload in opened.frames(end=file.length):
                if head.kind == frames.SESSION:
                    sessions |= {record.number: record for record in sessions_in(payload)}
                elif head.kind == frames.ROWS:
                    rows = opened.rows(head, payload, tier)
                    assert rows is not None, (opened.path, at)
                    yield head, opened.schemas[head.schema], rows, sessions
            assert not opened.damage.bytes
            check_indexes(opened, file.length, file.index_at)


def check_indexes(file: FrameFile, length: int, index_at: int) -> None:
    """Fails unless each frame is in an INDEX before it, and in the last INDEX of a closed file."""
    all_frames, indexed, whole = [], [], []
    for at, head, payload in file.frames(end=length):
        if head.kind == frames.INDEX:
            entries = [tuple(entry) for entry in np.frombuffer(payload, INDEX).tolist()]
            if index_at and at >= index_at:
                whole += entries
            else:
                indexed += entries
        else:
            all_frames.append((head.kind, at, head.least_session, head.greatest_session))
    assert [(kind, at) for kind, at, *_ in all_frames] == [(kind, at) for kind, *_, at in indexed]
    for (kind, _, least, greatest), (_, least_indexed, greatest_indexed, _) in zip(
        all_frames, indexed, strict=True
    ):
        if kind == frames.ROWS:
            assert (least, greatest) == (least_indexed, greatest_indexed)
    assert whole == (indexed if index_at else [])


def stored_ends(layout: Layout, state: State, tier: int) -> dict[SessionKey, tuple[EndRecord, int]]:
    """The newest end of each session in a tier, and its journal. Fails unless it follows the rows."""
    found: dict[SessionKey, tuple[EndRecord, int]] = {}
    folder = tier_name(tier)
    for number, file in sorted(state.files.get(folder, {}).items()):
        with FrameFile(layout.file(folder, number)) as opened:
            sessions: dict[int, SessionKey] = {}
            last: dict[int, tuple[int, Schema]] = {}
            for _, head, payload in opened.frames(end=file.length):
                if head.kind == frames.SESSION:
                    sessions |= {record.number: record.key for record in sessions_in(payload)}
                elif head.kind == frames.ROWS:
                    rows, schema = opened.rows(head, payload, tier), opened.schemas[head.schema]
                    assert rows is not None
                    for row in rows:
                        one = int(row["session"]), (int(row["t_ms"]), schema)
                        if one[1][0] >= last.get(one[0], (0, schema))[0]:
                            last[one[0]] = one[1]
                elif head.kind == frames.END:
                    for end in ends_in(payload):
                        assert last[end.number] == (end.last_ms, opened.schemas[head.schema])
                        found[sessions[end.number]] = end, head.origin
    return found


def descriptions(layout: Layout, state: State) -> dict[SessionKey, Description]:
    """The newest description of each ended session."""
    found = {}
    for number, file in sorted(state.files.get(ENDED, {}).items()):
        with FrameFile(layout.file(ENDED, number)) as opened:
            for _, head, payload in opened.frames(end=file.length):
                assert head.kind == frames.DESCRIPTIONS
                found.update({one.key: one for one in descriptions_in(payload, head.entries)})
    return found


LastFrames = dict[tuple[int, int], tuple[Schema, frames.Rows]]


def last_frames(layout: Layout, state: State) -> LastFrames:
    """The frames of last rows, by (file, offset)."""
    found = {}
    for number, file in sorted(state.files.get(LAST_ROWS, {}).items()):
        with FrameFile(layout.file(LAST_ROWS, number)) as opened:
            for at, head, payload in opened.frames(end=file.length):
                if head.kind == frames.ROWS:
                    rows = opened.rows(head, payload)
                    assert rows is not None
                    found[number, at] = opened.schemas[head.schema], rows
            check_indexes(opened, file.length, file.index_at)
    return found


def last_rows(found: LastFrames, description: Description) -> list[Tick]:
    """The rows that a description points at, by time."""
    ticks = []
    for place in description.places:
        schema, rows = found[place.file, place.offset]
        rows = rows[place.first : place.first + place.rows]
        assert rows.size == place.rows
        ticks += [Tick(int(row["t_ms"]), schema, tuple(row["values"].tolist())) for row in rows]
    return sorted(ticks, key=lambda tick: tick.t_ms)


# --- the expected content -------------------------------------------------------------------------------


def expected_rows(ticks: Iterable[Tick], interval_ms: int) -> dict[int, Row]:
    windows: dict[int, list[Tick]] = {}
    for tick in ticks:
        windows.setdefault(tick.t_ms // interval_ms, []).append(tick)
    return {window: _row(some) for window, some in windows.items()}


def _row(ticks: list[Tick]) -> Row:
    row: dict[tuple[str, str], bytes] = {}
    for one in union([tick.schema for tick in ticks]).series:
        values = [
            value
            for tick in ticks
            for each, value in zip(tick.schema.series, tick.values, strict=True)
            if each.name == one.name and not math.isnan(value)
        ]
        if one.kind == COUNTER:
            row[one.name, LAST] = bits(values[-1] if values else math.nan)
            continue
        total = 0.0
        for value in values:
            total += value
        row[one.name, AVG] = bits(total / len(values) if values else math.nan)
        row[one.name, MIN] = bits(min(values, default=math.nan))
        row[one.name, MAX] = bits(max(values, default=math.nan))
    return ticks[-1].t_ms, row


def same_ticks(one: Iterable[Tick], other: Iterable[Tick]) -> bool:
    def plain(ticks: Iterable[Tick]) -> list[object]:
        return [(tick.t_ms, tick.schema.packed, [bits(value) for value in tick.values]) for tick in ticks]

    return plain(one) == plain(other)


# --- a store -----------------------------------------------------------------------------------------


class Host:
    """A store with roll-ups, and the ticks that were written into it."""

    def __init__(self, path: Path, piece: int = 1 << 20, tiers: tuple[Tier, ...] = TIERS) -> None:
        self.layout, self.piece, self.tiers = Layout(path), piece, tiers
        self.state = State()
        self.remembered = Remembered(self.layout)
        self.now_ms = T0
        self.ticks: dict[Session, list[Tick]] = {}
        self.last_ms: dict[tuple[str, int], int] = {}
        self.number = 0
        self.random = random.Random(1)

    def journal(self) -> Journal:
        self.number += 1
        return Journal(self.layout, self.number, self.last_ms)

    def some(self, session: Session, seconds: int, schema: Schema = A, step_ms: int = 1000) -> list[Tick]:
        """More ticks of a session."""
        known = self.ticks.setdefault(session, [])
        t_ms = known[-1].t_ms if known else session.start_ms
        made = []
        for _ in range(seconds):
            t_ms += step_ms
            values = tuple(
                self.random.uniform(-1e6, 1e6) if self.random.random() > 0.1 else float("nan")
                for _ in range(schema.width)
            )
            made.append(Tick(t_ms, schema, values))
        known += made
        return made

    def roll_up(self, max_file: int = MAX_FILE) -> Result:
        result = roll_up(
            self.layout, self.state, self.tiers, STORE_ID, lambda: self.now_ms, self.number, self.remembered,
            piece=self.piece, max_file=max_file,
        )  # fmt: skip
        assert parse_state(self.layout.state_json.read_bytes()) == result.state
        self.state = result.state
        self.remembered.add(result.frames)
        return result

    def check(self, doubles: int = 0) -> None:
        """Fails unless all ended data equals the result of the plain loop."""
        over = descriptions(self.layout, self.state)
        live = parse_carry(self.layout.carry(self.state.carry).read_bytes()).sessions
        live_keys = {one.key for one in live.values()}
        for tier in range(1, len(self.tiers)):
            interval_ms = self.tiers[tier].interval_ms
            stored = stored_rows(self.layout, self.state, tier, interval_ms)
            rows = 0
            for session, ticks in self.ticks.items():
                if not ticks:
                    continue
                expected = expected_rows(ticks, interval_ms)
                found = stored.rows.get(session.key, {})
                if session.key in live_keys:
                    del expected[(window := max(expected))]
                    found.pop(window, None)  # of the session before it came back
                assert found == expected, (tier, session)
                rows += len(expected)
            assert 0 <= stored.counted - rows <= doubles
            ends = stored_ends(self.layout, self.state, tier)
            for session, ticks in self.ticks.items():
                if ticks and session.key not in live_keys:
                    end, journal = ends[session.key]
                    assert end.last_ms == ticks[-1].t_ms
                    assert journal >= stored.origins[session.key, end.last_ms // interval_ms]
        rows_of = last_frames(self.layout, self.state)
        for session, ticks in self.ticks.items():
            if ticks and session.key not in live_keys:
                entry = over[session.key]
                assert (entry.first_ms, entry.last_ms, entry.ticks) == (
                    ticks[0].t_ms,
                    ticks[-1].t_ms,
                    len(ticks),
                )
                assert Session(*entry[:4]) == session
                assert entry.series == union([tick.schema for tick in ticks]).width
                begins = [int(rows_of[one.file, one.offset][1]["t_ms"][one.first]) for one in entry.places]
                assert begins == sorted(begins), "readers learn from it which series came first"
                newest = [tick for tick in ticks if tick.t_ms > ticks[-1].t_ms - 600_000][-6000:]
                assert same_ticks(last_rows(rows_of, entry), newest), session
                assert self.remembered.find(*session.key) == entry
