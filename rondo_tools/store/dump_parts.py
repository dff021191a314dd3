"""The parts of a dump, checked: a dump may come from anywhere.

Strategy: invalid data raises one of `BAD` before any of it is used. Sessions and schemas have the limits of a
stream's header.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from rondo_tools import stream
from rondo_tools.errors import RondoError, StoreError
from rondo_tools.store.carry import Carry, parse_carry
from rondo_tools.store.ended import MAX_LAST_ROWS
from rondo_tools.store.format import dump, frames
from rondo_tools.store.format.frames import Frame, Rows
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, tier_name
from rondo_tools.store.format.records import (
    UNDECODABLE,
    Description,
    EndRecord,
    Labels,
    SessionRecord,
    descriptions_in,
    ends_in,
    sessions_in,
)
from rondo_tools.store.format.schema import Schema, unpack_schema
from rondo_tools.store.format.state import Eviction
from rondo_tools.store.format.tiers import MAX_TIERS, Tier, parse_tiers

BAD = (*UNDECODABLE, KeyError)
"""The errors of this module: an undamaged frame with invalid content."""

MAX_SCHEMA_BYTES = 256 << 20  # of one part, as of a journal
MAX_NUMBER = 1 << 31  # of a file
MAX_SMALL_FILE = 1 << 30  # a carry of a million sessions has less
_ANY_SERIES = {"name": "any", "labels": {}, "kind": "gauge", "unit": "", "help": ""}
_JOURNALS_OF_LIVE = "journal", "from_journal", "mark_journal"
_INT = range(stream.MAX_T_MS + 1)


@dataclass
class Part:
    """A part of a dump, and its declarations so far. `data` is the content of its BYTES."""

    name: str
    number: int = 0
    file_id: bytes = b""
    cursor: str = ""
    tier: int = 0
    data: bytearray = field(default_factory=bytearray)
    schemas: dict[int, Schema] = field(default_factory=dict)
    sessions: dict[int, SessionRecord] = field(default_factory=dict)
    _schema_bytes: int = 0

    def take_bytes(self, payload: bytes) -> None:
        if len(self.data) + len(payload) > MAX_SMALL_FILE:
            raise ValueError("too large")
        self.data += payload

    def take_schema(self, head: Frame, payload: bytes) -> None:
        self._schema_bytes += len(payload)
        if self._schema_bytes > MAX_SCHEMA_BYTES:
            raise ValueError("too many schemas")
        self.schemas[head.schema] = _schema(payload)

    def take_sessions(self, payload: bytes) -> list[SessionRecord]:
        some = list(sessions_in(payload))
        for one in some:
            _check_session(one.instance, one.start_ms, one.interval_ms, one.labels)
            _check_ints(one.number, one.last_ms, one.before_ms)
        self.sessions.update((one.number, one) for one in some)
        return some

    def rows(
        self, head: Frame, payload: bytes, tier: int, only: npt.NDArray[np.int64] | None = None
    ) -> tuple[Schema, Rows]:
        """The rows of a ROWS frame, or those at `only`; all of declared sessions."""
        schema = self.schemas[head.schema]
        rows = frames.rows_of(payload, schema.width_in(tier))
        if rows.size != head.entries or not rows.size:
            raise ValueError("its rows do not fit their schema")
        if only is not None:
            rows = rows[only]
        if rows["t_ms"].min() < 1 or rows["t_ms"].max() > stream.MAX_T_MS:
            raise ValueError("a row without a time")
        if not all(number in self.sessions for number in np.unique(rows["session"]).tolist()):
            raise ValueError("rows of a session that is not declared")
        return schema, rows

    def ends(self, payload: bytes) -> list[EndRecord]:
        some = list(ends_in(payload))
        for one in some:
            _check_ints(one.t_ms, one.last_ms)
            _check_reason(one.reason)
            if one.number not in self.sessions:
                raise ValueError("the end of a session that is not declared")
        return some


@dataclass(frozen=True)
class DumpedStore:
    """A dump's description of its store; `bytes` is about the length of the dump."""

    tiers: tuple[Tier, ...]
    rolled_up: int
    evictions: tuple[Eviction, ...]
    bytes: int


def dumped_store(source: dump.DumpReader) -> DumpedStore:
    """The description that a dump begins with. Raises StoreError if it is missing."""
    for head, payload in source:
        try:
            found = part_of(payload) if head.kind == dump.PART else None
        except BAD:
            break
        if isinstance(found, DumpedStore):
            return found
        break
    raise StoreError("standard input: the beginning of the dump is damaged or missing; nothing was restored")


def part_of(payload: bytes) -> Part | DumpedStore:
    """The part that a PART frame begins."""
    facts: dict[str, Any] = msgpack.unpackb(payload)
    name = facts["part"]
    if name == dump.STORE:
        return _dumped_store(facts)
    if name in (dump.CARRY, dump.END):
        return Part(name)
    if name == dump.CURSOR:
        return Part(name, cursor=str(facts["cursor"]))
    coarse = {tier_name(tier): tier for tier in range(1, MAX_TIERS)}
    if name not in (JOURNALS, ENDED, LAST_ROWS, *coarse):
        raise ValueError(f"part {name!r:.100}")
    number, file_id = facts["number"], facts["id"]
    if type(file_id) is not bytes or type(number) is not int or not 0 < number < MAX_NUMBER:
        raise ValueError("no file")
    return Part(name, number, file_id, tier=coarse.get(name, 0))


def _dumped_store(facts: dict[str, Any]) -> DumpedStore:
    try:
        tiers = parse_tiers(facts["tiers"])
    except RondoError as exc:
        raise ValueError(str(exc)) from exc
    _check_ints(facts["rolled_up"], facts["bytes"])
    evictions = tuple(Eviction(**one) for one in facts["evictions"])
    for one in evictions:
        _check_ints(one.tier, one.from_ms, one.to_ms, one.bytes, int(one.delivered))
    if facts["rolled_up"] >= MAX_NUMBER:
        raise ValueError("no number of a journal")
    return DumpedStore(tiers, facts["rolled_up"], evictions, facts["bytes"])


def descriptions(head: Frame, payload: bytes) -> list[Description]:
    some = list(descriptions_in(payload, head.entries))
    for one in some:
        _check_session(one.instance, one.start_ms, one.interval_ms, one.labels)
        _check_reason(one.reason)
        _check_ints(one.end_ms, one.first_ms, one.last_ms, one.ticks, one.series)
        _check_ints(*(number for place in one.places for number in place))
        if sum(place.rows for place in one.places) > MAX_LAST_ROWS:
            raise ValueError("more last rows than a session can have")
    return some


def carry_of(data: bytes, rolled_up: int) -> Carry:
    """The carry of a store that is rolled up to `rolled_up`. Raises ValueError if it is invalid."""
    try:
        carry = parse_carry(data)
    except StoreError as exc:
        raise ValueError(str(exc)) from exc
    live = carry.live
    for (instance, labels), start_ms, interval_ms in zip(
        carry.names, live["start_ms"].tolist(), live["interval_ms"].tolist(), strict=True
    ):
        _check_session(instance, start_ms, interval_ms, labels)
    for name in live.dtype.names or ():
        if live.size and not (int(live[name].min()) >= 0 and int(live[name].max()) in _INT):
            raise ValueError("a carry with invalid times")
    if any(live.size and int(live[name].max()) > rolled_up for name in _JOURNALS_OF_LIVE):
        raise ValueError("a carry of journals that are not rolled up")
    if live.size and int(live["schema"].max()) >= len(carry.schemas):
        raise ValueError("a carry without its schemas")
    for schema in carry.schemas:
        _schema(schema.packed)
    for tier in carry.windows:
        seen = np.zeros(live.size, np.int64)
        for groups in tier.values():
            if any(len(column) != groups.size for column in groups):
                raise ValueError("open windows with columns of unequal length")
            if groups.size and not (int(groups.session.min()) >= 0 and int(groups.session.max()) < live.size):
                raise ValueError("an open window without a session")
            if groups.size and not (int(groups.t_ms.min()) >= 1 and int(groups.t_ms.max()) in _INT):
                raise ValueError("an open window without a time")
            seen += np.bincount(groups.session, minlength=live.size)
        if (seen > 1).any():
            raise ValueError("two open windows of a session")
    return carry


def _schema(packed: bytes) -> Schema:
    try:
        stream.series_from_maps(msgpack.unpackb(packed))
        return unpack_schema(bytes(packed))
    except StoreError as exc:
        raise ValueError(str(exc)) from exc


def _check_session(instance: Any, start_ms: Any, interval_ms: Any, labels: Labels) -> None:
    header = {
        "rondo": stream.VERSION, "instance": instance, "start_ms": start_ms, "labels": dict(labels),
        "interval_ms": interval_ms, "series": [_ANY_SERIES],
    }  # fmt: skip
    stream.header_from_map(header)


def _check_reason(reason: object) -> None:
    stream.end_from_map({"end": reason, "t_ms": 1})


def _check_ints(*values: Any) -> None:
    if any(type(value) is not int or value not in _INT for value in values):
        raise ValueError("an invalid number")
