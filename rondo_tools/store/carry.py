"""The carry, `carry_N`: the live sessions after a roll-up, and their open windows.

    CRC-32 of all that follows u32, then msgpack:
    {"names": [[instance, {label: value}], ...],      one for each session; its place is its slot
     "live": the rows of LIVE, packed, in the same order,
     "schemas": [packed schema, ...],
     "windows": [[[schema, bytes of each column of Groups], ...], ...],   one list a coarse tier
     "files": {folder: [number, sessions, [schema, ...], numbers, row_ms]}}

A schema is a place in "schemas"; `session` in Groups is a slot. "files" has the declarations of each folder's
open file, so that a roll-up can continue it without reading it: see `OpenFile`.

Strategy: the values that change with every tick are columns, one row for each session, packed as they are.
A slot is valid in this file only: ended sessions leave no gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

import msgpack
import numpy as np
import numpy.typing as npt

from rondo_tools.errors import StoreError
from rondo_tools.store.format.records import Labels, SessionKey
from rondo_tools.store.format.rollup import Flags, Groups, Ints
from rondo_tools.store.format.schema import Schema, unpack_schema

LIVE = np.dtype(
    [
        ("start_ms", "<i8"),
        ("interval_ms", "<i8"),
        ("first_ms", "<i8"),
        ("last_ms", "<i8"),
        ("ticks", "<i8"),
        ("before_ms", "<i8"),  # the newest tick of its instance's other sessions, when it was declared
        ("described_ms", "<i8"),  # of a session that came back after its end: its last tick then; else 0
        ("schema", "<u4"),  # all series that it has had
        ("journal", "<u4"),  # of its last tick
        ("from_journal", "<u4"),  # its last ten minutes of ticks are in journals from this one on
        ("mark_journal", "<u4"),  # a later one,
        ("mark_ms", "<i8"),  # and the session's last tick before it
    ]
)
Live = npt.NDArray[np.void]


class LiveSession(NamedTuple):
    """A live session, up to the journal that was rolled up last."""

    instance: str
    start_ms: int
    interval_ms: int
    labels: Labels
    first_ms: int
    last_ms: int
    ticks: int
    schema: Schema

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms


@dataclass(slots=True)
class OpenFile:
    """The declarations in the newest file of a folder: `sessions` is their number, `schemas` are by number.

    By slot: `numbers`, the session's number in the file or -1; `row_ms`, the time of its newest row in
    the folder or 0.
    """

    number: int
    sessions: int = 0
    schemas: list[Schema] = field(default_factory=list)
    numbers: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    row_ms: Ints = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(slots=True)
class Carry:
    """`live["schema"]` is a place in `schemas`; `windows` has the open groups of each coarse tier."""

    names: list[tuple[str, Labels]] = field(default_factory=list)
    live: Live = field(default_factory=lambda: np.empty(0, LIVE))
    schemas: list[Schema] = field(default_factory=list)
    windows: list[dict[Schema, Groups]] = field(default_factory=list)
    files: dict[str, OpenFile] = field(default_factory=dict)

    @property
    def sessions(self) -> dict[int, LiveSession]:
        """The live sessions, by slot."""
        columns = zip(
            self.names,
            *(
                self.live[column].tolist()
                for column in ("start_ms", "interval_ms", "first_ms", "last_ms", "ticks", "schema")
            ),
            strict=True,
        )
        return {
            slot: LiveSession(
                instance, start_ms, interval_ms, labels, first_ms, last_ms, ticks, self.schemas[schema]
            )
            for slot, (
                (instance, labels),
                start_ms,
                interval_ms,
                first_ms,
                last_ms,
                ticks,
                schema,
            ) in enumerate(columns)
        }

    def only(self, is_kept: Flags) -> Carry:
        """Some of the sessions, in slots without gaps, without the declarations of open files."""
        slot_of = np.cumsum(is_kept) - 1
        live = self.live[is_kept]
        is_used = np.bincount(live["schema"], minlength=len(self.schemas)) > 0
        live["schema"] = (np.cumsum(is_used) - 1)[live["schema"]]
        windows = []
        for tier in self.windows:
            some = {schema: groups.only(is_kept[groups.session]) for schema, groups in tier.items()}
            windows.append(
                {
                    schema: groups._replace(session=slot_of[groups.session])
                    for schema, groups in some.items()
                    if groups.size
                }
            )
        return Carry(
            [self.names[slot] for slot in np.flatnonzero(is_kept).tolist()],
            live,
            [schema for schema, used in zip(self.schemas, is_used.tolist(), strict=True) if used],
            windows,
        )

    def pack(self) -> bytes:
        """The file's content. Schemas of windows and files that `schemas` lacks are added."""
        place = {schema: number for number, schema in enumerate(self.schemas)}
        for schemas in (*self.windows, *(file.schemas for file in self.files.values())):
            for schema in schemas:
                place.setdefault(schema, len(place))
        document = {
            "names": [[instance, dict(labels)] for instance, labels in self.names],
            "live": self.live.tobytes(),
            "schemas": [schema.packed for schema in place],
            "windows": [
                [[place[schema], *(column.tobytes() for column in groups)] for schema, groups in tier.items()]
                for tier in self.windows
            ],
            "files": {
                folder: [
                    file.number, file.sessions, [place[schema] for schema in file.schemas],
                    file.numbers.tobytes(), file.row_ms.tobytes(),
                ]
                for folder, file in self.files.items()
            },
        }  # fmt: skip
        packed = bytes(msgpack.packb(document))
        return crc32(packed).to_bytes(4, "little") + packed


def parse_carry(data: bytes) -> Carry:
    """Raises StoreError, without the file's name, for data that is damaged or no carry."""
    try:
        if crc32(data[4:]) != int.from_bytes(data[:4], "little") or len(data) < 5:
            raise StoreError("damaged")
        document = msgpack.unpackb(data[4:], max_str_len=len(data))
        schemas = [unpack_schema(packed) for packed in document["schemas"]]
        names = [(instance, tuple(sorted(labels.items()))) for instance, labels in document["names"]]
        carry = Carry(
            names,
            np.frombuffer(document["live"], LIVE).copy(),
            schemas,
            [
                {schemas[place]: _groups(columns, schemas[place]) for place, *columns in tier}
                for tier in document["windows"]
            ],
            {
                folder: OpenFile(
                    number, sessions, [schemas[place] for place in places], _ints(numbers), _ints(row_ms)
                )
                for folder, (number, sessions, places, numbers, row_ms) in document["files"].items()
            },
        )
        if len(names) != carry.live.size:
            raise StoreError("damaged")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, msgpack.UnpackException) as exc:
        raise StoreError(f"not a carry ({exc!r:.200})") from exc
    return carry


def _ints(packed: bytes) -> Ints:
    return np.frombuffer(packed, np.int64).copy()


def _groups(columns: list[bytes], schema: Schema) -> Groups:
    gauges, counters = schema.gauges.size, schema.counters.size
    session, window, t_ms, n, total, low, high, last = columns

    def table(packed: bytes, width: int, kind: Any = np.float64) -> npt.NDArray[Any]:
        # reshape(-1, 0) could not compute the number of rows.
        return np.frombuffer(packed, kind).reshape(len(session) // 8, width).copy()

    return Groups(
        _ints(session), _ints(window), _ints(t_ms), table(n, gauges, np.int64), table(total, gauges),
        table(low, gauges), table(high, gauges), table(last, counters),
    )  # fmt: skip
