"""A writer of stores of format 2 for the tests of what reads them: plain, slow, and with the truth in memory.

`Writer` keeps every tick that it was given; so what a reader has to find is worked out from that,
never from files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from rondo_tools import files
from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.carry import LIVE, Carry
from rondo_tools.store.format import frames
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import (
    INDEX,
    LOST,
    Description,
    EndRecord,
    Labels,
    Place,
    SessionKey,
    SessionRecord,
    pack_descriptions,
    pack_ends,
    pack_sessions,
)
from rondo_tools.store.format.rollup import Groups, Ticks, Windows, coarse_rows
from rondo_tools.store.format.schema import Schema, schema_of, union
from rondo_tools.store.format.state import DerivedFile, State
from rondo_tools.store.format.store_json import StoreJson
from rondo_tools.store.format.tiers import Tier, parse_tiers
from rondo_tools.store.frame_writer import FrameWriter

T0 = 1_795_395_000_000  # 2026-11-23T00:50:00Z, a multiple of all intervals
TIERS = parse_tiers("1s:10m,10s:6h,5m:7d")
SMALL_TIERS = parse_tiers("1s:10s,3s:60s,9s:9m")
LAST_MS = 600_000
C1, C2 = (Series(f"c{n}_total", (("n", str(n)),), COUNTER, "things", "A counter.") for n in (1, 2))
G1, G2 = (Series(f"g{n}_bytes", (), GAUGE, "bytes", "A gauge.") for n in (1, 2))
SCHEMAS = tuple(map(schema_of, ((C1, G1), (C1, G1, G2), (G2, C1, C2))))


@dataclass
class Tick:
    key: SessionKey
    t_ms: int
    schema: Schema
    values: tuple[float, ...]
    journal: int = 0  # that has it


@dataclass
class End:
    key: SessionKey
    reason: str
    t_ms: int
    last_ms: int


@dataclass
class Life:
    """All that is known of a session."""

    key: SessionKey
    interval_ms: int
    labels: Labels
    ticks: list[Tick] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def last_ms(self) -> int:
        return self.ticks[-1].t_ms if self.ticks else 0

    @property
    def end(self) -> End | None:
        return standing_end(self.ends, self.last_ms)


def standing_end(ends: Iterable[End], last_ms: int) -> End | None:
    found = None
    for end in ends:
        if end.reason != LOST:
            return end
        if end.last_ms >= last_ms:
            found = end
    return found


class _Derived:
    """One folder's newest file: what a roll-up appends begins with an INDEX."""

    def __init__(self, writer: Writer, folder: str) -> None:
        self.writer, self.folder = writer, folder
        self._file: FrameWriter | None = None

    @property
    def file(self) -> FrameWriter:
        assert self._file is not None, "begin one first"
        return self._file

    def begin(self) -> FrameWriter:
        if self._file is None:
            number = self.writer.state.next.get(self.folder, 1)
            self.writer.state.next[self.folder] = number + 1
            self._file = self.writer.new_file(self.folder, number)
            self.file.write()
            self.schemas: dict[Schema, int] = {}
            self.sessions: dict[SessionKey, int] = {}
            self.all: list[tuple[int, int, int, int]] = []
        self.parts: list[tuple[int, int, int, bytes]] = []
        return self.file

    def schema(self, schema: Schema) -> int:
        if schema not in self.schemas:
            number = self.schemas[schema] = len(self.schemas)
            frame = frames.frame(self.file.seed, frames.SCHEMA, schema.packed, schema=number)
            self.parts.append((frames.SCHEMA, 0, 0, frame))
        return self.schemas[schema]

    def session(self, life: Life) -> int:
        if life.key not in self.sessions:
            number = self.sessions[life.key] = len(self.sessions)
            record = SessionRecord(number, *life.key, life.interval_ms, life.labels, 0, 0)
            frame = frames.frame(self.file.seed, frames.SESSION, pack_sessions([record]))
            self.parts.append((frames.SESSION, number, number, frame))
        return self.sessions[life.key]

    def rows(self, frame: bytes) -> None:
        head = frames.parse_head(frame, 0, self.file.seed)
        assert head is not None
        self.parts.append((frames.ROWS, head.least_session, head.greatest_session, frame))

    def commit(self, *, index: bool = True) -> list[int]:
        """Append what was gathered; gives the offsets of its ROWS frames."""
        at = self.file.end + (frames.HEAD_SIZE + INDEX.itemsize * len(self.parts) if index else 0)
        table, offsets = [], []
        for kind, least, greatest, frame in self.parts:
            table.append((kind, least, greatest, at))
            offsets.append(at)
            at += len(frame)
        if index and table:
            self._index(table)
            self.all += table
        for *_, frame in self.parts:
            self.file.add(frame)
        self.file.write()
        self._named_in_state()
        return [at for (kind, *_), at in zip(table, offsets, strict=True) if kind == frames.ROWS]

    def _index(self, table: Sequence[tuple[int, int, int, int]]) -> None:
        payload = np.array(table, INDEX).tobytes()
        self.file.add(frames.frame(self.file.seed, frames.INDEX, payload, entries=len(table)))

    def _named_in_state(self) -> DerivedFile:
        known = self.writer.state.files.setdefault(self.folder, {})
        entry = known.setdefault(self.file.header.number, DerivedFile(0, self.writer.now_ms))
        entry.length = self.file.size
        return entry

    def finish(self, *, index: bool = True) -> None:
        if self._file is None:
            return
        entry = self._named_in_state()
        if index and self.all:
            entry.index_at = self.file.end
            self._index(self.all)
            self.file.write()
        entry.length, entry.closed_ms = self.file.size, self.writer.now_ms
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Writer:
    """Writes a store at `path`: `tick` and `end` gather, `flush` writes a turn, `rotate` closes the
    journal, `roll_up` rolls up what is closed. `close` it, or use it as a context manager.
    """

    def __init__(
        self,
        path: Path,
        tiers: tuple[Tier, ...] = TIERS,
        *,
        seed: int = 0,
        per_frame: int = 64,
        last_ms: int = LAST_MS,
    ) -> None:
        self.layout = Layout(path)
        self.tiers, self.per_frame, self.last_ms = tiers, per_frame, last_ms
        self._random = np.random.default_rng(seed)
        self.store_id = self._random.bytes(8)
        self.now_ms = T0
        self.state = State()
        self.carry = Carry(windows=[{} for _ in tiers[1:]])
        self.lives: dict[SessionKey, Life] = {}
        folders = [JOURNALS, ENDED, LAST_ROWS, *(tier_name(n) for n in range(1, len(tiers)))]
        for folder in folders:
            self.layout.folder(folder).mkdir(parents=True, exist_ok=True)
        files.replace(self.layout.store_json, StoreJson(self.store_id, tiers).pack())
        self.derived = {folder: _Derived(self, folder) for folder in folders[1:]}
        self.journal: FrameWriter | None = None
        self.newest = 0
        self._turn: list[Tick | End] = []
        self._in_journal: list[Tick | End] = []
        self._closed: list[tuple[int, list[Tick | End]]] = []
        self._numbers: dict[SessionKey, int] = {}
        self._rolled_up: dict[SessionKey, list[Tick]] = {}
        self._described: dict[SessionKey, int] = {}

    def new_file(self, folder: str, number: int) -> FrameWriter:
        header = frames.FileHeader(number, self.store_id, self._random.bytes(8))
        return FrameWriter(self.layout.file(folder, number), header)

    # --- writing

    def tick(
        self,
        key: SessionKey,
        t_ms: int,
        values: Sequence[float] = (1.0, 2.0),
        schema: Schema = SCHEMAS[0],
        interval_ms: int = 1000,
        labels: Labels = (),
    ) -> None:
        life = self.lives.setdefault(key, Life(key, interval_ms, labels))
        assert t_ms > life.last_ms
        if any(isinstance(one, End) or one.schema is not schema for one in self._turn if one.key == key):
            self.flush()
        tick = Tick(key, t_ms, schema, tuple(values))
        self._turn.append(tick)
        life.ticks.append(tick)

    def end(self, key: SessionKey, reason: str = "poweroff", t_ms: int | None = None) -> None:
        life = self.lives.setdefault(key, Life(key, 1000, ()))
        end = End(key, reason, t_ms or life.last_ms + 1, life.last_ms)
        self._turn.append(end)
        life.ends.append(end)

    def flush(self) -> None:
        """Write a turn: a frame for each schema, then the ends."""
        if not self._turn:
            return
        if self.journal is None:
            self.newest += 1
            self.journal = self.new_file(JOURNALS, self.newest)
        journal = self.journal
        of_schema: dict[Schema, list[tuple[int, int, tuple[float, ...]]]] = {}
        ends = []
        for one in self._turn:
            number = journal.session(one.key, partial(self._record, key=one.key))
            if isinstance(one, Tick):
                of_schema.setdefault(one.schema, []).append((number, one.t_ms, one.values))
            else:
                ends.append(EndRecord(number, one.t_ms, one.reason, one.last_ms))
        for schema, some in of_schema.items():
            rows = np.array(some, frames.row_dtype(schema.width))
            for frame in frames.rows_frames(journal.seed, rows, journal.schema(schema)):
                journal.add(frame)
        if ends:
            journal.add(frames.frame(journal.seed, frames.END, pack_ends(ends), entries=len(ends)))
        journal.write()
        for one in self._turn:
            if isinstance(one, Tick):
                one.journal = self.newest
        self._in_journal += self._turn
        self._turn = []

    def _record(self, number: int, key: SessionKey) -> SessionRecord:
        life = self.lives[key]
        last_ms = max((one.t_ms for one in life.ticks if one.journal), default=0)
        before_ms = max(
            (other.last_ms for other in self.lives.values() if other.key[0] == key[0] and other.key != key),
            default=0,
        )
        return SessionRecord(number, *key, life.interval_ms, life.labels, last_ms, before_ms)

    def rotate(self) -> None:
        self.flush()
        if self.journal is not None:
            self.journal.close()
            self.journal = None
            self._closed.append((self.newest, self._in_journal))
            self._in_journal = []

    # --- rolling up

    def roll_up(self) -> None:
        """Roll up all journals that are closed, and commit."""
        for number, some in self._closed:
            self._roll_up_one(number, some)
            self.state.rolled_up = number
            self.state.journals[number] = self.now_ms
            self.commit()
        self._closed = []

    def commit(self) -> None:
        before = self.state.carry
        self.state.carry += 1
        files.replace(self.layout.carry(self.state.carry), self.carry.pack())
        files.replace(self.layout.state_json, self.state.pack())
        if before:
            self.layout.carry(before).unlink()

    def _roll_up_one(self, journal: int, some: Sequence[Tick | End]) -> None:
        seeds: dict[SessionKey, list[Tick]] = {}
        for key in dict.fromkeys(one.key for one in some):
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers)
                if key in self._described:
                    seeds[key] = self._rolled_up[key]
        ticks = [one for one in some if isinstance(one, Tick)]
        for tick in ticks:
            self._rolled_up.setdefault(tick.key, []).append(tick)
        over = {}
        for one in some:
            if isinstance(one, End):
                ends = [other for other in some if isinstance(other, End) and other.key == one.key]
                end = standing_end(ends, max((t.t_ms for t in self._rolled_up.get(one.key, ())), default=0))
                if end is not None:
                    over[one.key] = end
        gone = np.array([self._numbers[key] for key in over], np.int64)
        for tier in range(1, len(self.tiers)):
            interval_ms = self.tiers[tier].interval_ms
            windows = Windows(interval_ms, self.carry.windows[tier - 1])
            before = [
                one
                for key, known in seeds.items()
                for one in known
                if one.t_ms // interval_ms == known[-1].t_ms // interval_ms
            ]
            closed = windows.add(self._arrays([*before, *ticks])) + windows.close(gone)
            self.carry.windows[tier - 1] = windows.open
            self._write_coarse(tier, closed, journal)
        if over:
            self._write_ended(over)
        for key in over:
            del self._numbers[key]
        self._carry_sessions()

    def _carry_sessions(self) -> None:
        """Who is not over: in the carry a session's number is its place, so numbers close up."""
        carry, before = self.carry, self._numbers
        self._numbers = {key: place for place, key in enumerate(before)}
        moved = np.zeros(max(before.values(), default=-1) + 1, np.int64)
        moved[list(before.values())] = list(self._numbers.values())
        carry.windows = [
            {schema: groups._replace(session=moved[groups.session]) for schema, groups in tier.items()}
            for tier in carry.windows
        ]
        carry.names = [(key[0], self.lives[key].labels) for key in self._numbers]
        carry.live, carry.schemas = np.zeros(len(self._numbers), LIVE), []
        for place, key in enumerate(self._numbers):
            known, row = self._rolled_up.get(key, []), carry.live[place]
            row["start_ms"], row["interval_ms"] = key[1], self.lives[key].interval_ms
            if known:
                row["first_ms"], row["last_ms"], row["ticks"] = known[0].t_ms, known[-1].t_ms, len(known)
            schema = union_of(known)
            if schema not in carry.schemas:
                carry.schemas.append(schema)
            row["schema"] = carry.schemas.index(schema)

    def _arrays(self, ticks: Sequence[Tick]) -> dict[Schema, Ticks]:
        of_schema: dict[Schema, list[Tick]] = {}
        for one in ticks:
            of_schema.setdefault(one.schema, []).append(one)
        return {
            schema: Ticks(
                np.array([self._numbers[one.key] for one in some], np.int64),
                np.array([one.t_ms for one in some], np.int64),
                np.array([one.values for one in some], np.float64).reshape(len(some), schema.width),
            )
            for schema, some in of_schema.items()
        }

    def _write_coarse(self, tier: int, closed: Sequence[tuple[Schema, Groups]], origin: int) -> None:
        if not closed:
            return
        derived = self.derived[tier_name(tier)]
        file = derived.begin()
        keys = {number: key for key, number in self._numbers.items()}
        made: list[bytes] = []
        for schema, groups in closed:
            coarse = coarse_rows(groups, schema)
            rows = np.zeros(groups.size, frames.row_dtype(schema.coarse_width))
            rows["session"] = [derived.session(self.lives[keys[n]]) for n in coarse.session.tolist()]
            rows["t_ms"], rows["values"] = coarse.t_ms, coarse.values
            rows = rows[np.lexsort((rows["t_ms"], rows["session"]))]
            number = derived.schema(schema)
            for begin in range(0, len(rows), self.per_frame):
                part = rows[begin : begin + self.per_frame]
                made += frames.rows_frames(file.seed, part, number, origin=origin)
        for frame in made:
            derived.rows(frame)
        derived.commit()

    def _write_ended(self, over: dict[SessionKey, End]) -> None:
        rows_file = self.derived[LAST_ROWS]
        rows_file.begin()
        pieces: list[tuple[SessionKey, int]] = []
        for key in over:
            known = self._rolled_up.get(key, [])
            known = [one for one in known if one.t_ms > known[-1].t_ms - self.last_ms]
            for schema in dict.fromkeys(one.schema for one in known):
                mine = [
                    (rows_file.session(self.lives[key]), one.t_ms, one.values)
                    for one in known
                    if one.schema is schema
                ]
                rows = np.array(mine, frames.row_dtype(schema.width))
                number = rows_file.schema(schema)
                for frame in frames.rows_frames(rows_file.file.seed, rows, number, most=self.per_frame):
                    rows_file.rows(frame)
                    head = frames.parse_head(frame, 0, rows_file.file.seed)
                    assert head is not None
                    pieces.append((key, head.entries))
        places: dict[SessionKey, list[Place]] = {key: [] for key in over}
        number = rows_file.file.header.number
        for (key, count), at in zip(pieces, rows_file.commit(), strict=True):
            places[key].append(Place(number, at, 0, count))
        described = []
        for key, end in over.items():
            life, known = self.lives[key], self._rolled_up.get(key, [])
            first_ms, last_ms = (known[0].t_ms, known[-1].t_ms) if known else (0, 0)
            self._described[key] = last_ms
            described.append(
                Description(
                    *key, life.interval_ms, life.labels, end.reason, end.t_ms, first_ms, last_ms,
                    len(known), union_of(known).width, tuple(places[key]),
                )
            )  # fmt: skip
        ended = self.derived[ENDED]
        file = ended.begin()
        payload = pack_descriptions(described)
        ended.parts.append(
            (
                frames.DESCRIPTIONS,
                0,
                0,
                frames.frame(file.seed, frames.DESCRIPTIONS, payload, entries=len(described)),
            )
        )
        ended.commit(index=False)

    # --- retention

    def finish_derived(self, *, index: bool = True) -> None:
        """Close all derived files: the next roll-up begins new ones."""
        for derived in self.derived.values():
            derived.finish(index=index)
        self.commit()

    def wanted_from(self) -> int:
        """The oldest journal with ticks of the last ten minutes of a session that is not over."""
        return min(
            (
                one.journal
                for key in self._numbers
                for one in self.lives[key].ticks
                if one.t_ms > self.lives[key].last_ms - self.last_ms
            ),
            default=self.state.rolled_up + 1,
        )

    def there(self, key: SessionKey) -> list[Tick]:
        """The ticks of a session that are in journals, or among its last rows."""
        gone = {number for number in range(1, self.state.rolled_up + 1) if number not in self.state.journals}
        last = self._described.get(key, 0) - self.last_ms
        return [
            one
            for one in self.lives[key].ticks
            if one.journal not in gone or (key in self._described and last < one.t_ms <= self._described[key])
        ]

    def remove_journals(self, up_to: int) -> None:
        """Remove journals that are rolled up, up to that number."""
        for number in [n for n in self.state.journals if n <= up_to]:
            del self.state.journals[number]
            self.commit()
            self.layout.file(JOURNALS, number).unlink()

    def close(self) -> None:
        self.flush()
        if self.journal is not None:
            self.journal.close()
        for derived in self.derived.values():
            derived.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def union_of(ticks: Iterable[Tick]) -> Schema:
    schemas = list(dict.fromkeys(one.schema for one in ticks))
    return union(schemas) if schemas else schema_of(())


def fill(writer: Writer) -> None:
    """Something in every folder: three journals that are rolled up, and one that is not."""
    for cycle in range(4):
        for second in range(1, 16):
            t_ms = T0 + 1000 * (15 * cycle + second)
            writer.tick(("vm-1", T0), t_ms, (second, 0.5 * second), SCHEMAS[0])
            if cycle != 1:
                values = second, 1.0, float("nan")
                writer.tick(("vm-2", T0 + cycle), t_ms, values, SCHEMAS[1 + cycle % 2])
        if cycle != 1:
            writer.end(("vm-2", T0 + cycle), "poweroff" if cycle else "lost")
        if cycle < 3:
            writer.rotate()
            writer.roll_up()
        if cycle == 1:
            writer.finish_derived()
    writer.flush()
