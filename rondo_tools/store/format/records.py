"""The payloads of SESSION, END, DESCRIPTIONS and INDEX frames.

    SESSION       msgpack arrays, one after another:
                  [number, instance, start_ms, interval_ms, {label: value}, last_ms, before_ms]
    END           msgpack arrays: [number, t_ms, reason, last_ms]
    DESCRIPTIONS  a table of (key u64, last_ms i64, offset u32), packed, in the order of the descriptions;
                  then one msgpack array each, at `offset` from the begin of the payload:
                  [instance, start_ms, interval_ms, {label: value}, reason, end_ms, first_ms, last_ms,
                   ticks, series, [[file, offset, first row, rows], ...]]
    INDEX         a table of (kind u32, least session u32, greatest session u32, offset u32), packed:
                  each append of a roll-up to a file of rows begins with an entry for each of its frames,
                  at `offset` of the file; a closed file ends with all entries again

A session is (instance, start_ms); its number is valid in its file only, and may change when the file declares
the session again. Reasons are those of the stream, and `lost`. Places are in the order of writing; if the
schema changed, a reader sorts the rows by time.

Forgotten data keeps its bytes, so that no offset changes: a session's instance becomes a meaningless number,
the same one for all sessions of the instance; its interval is 0, its labels are removed. A description is
also removed from the table. Msgpack's nils fill the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgpack
import numpy as np
import numpy.typing as npt

Labels = tuple[tuple[str, str], ...]
SessionKey = tuple[str, int]
"""(instance, start_ms)."""

UNDECODABLE = ValueError, TypeError, AttributeError, IndexError, msgpack.UnpackException
"""The errors of decoding an undamaged payload with invalid content."""

_FORGOTTEN = "\udc00"  # impossible in UTF-8
LOST = "lost"
"""The reason of an end that did not come from the producer; any row later than its `last_ms` undoes it."""


class SessionRecord(NamedTuple):
    """Declares a session in a file.

    `last_ms` is its newest tick before this file's rows of it, `before_ms` that of any other session
    of its instance; 0 is none.
    """

    number: int
    instance: str
    start_ms: int
    interval_ms: int
    labels: Labels
    last_ms: int
    before_ms: int

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms

    @property
    def is_forgotten(self) -> bool:
        """Whether it was forgotten; its `instance` is then one that no stream can have."""
        return self.instance.startswith(_FORGOTTEN)


class EndRecord(NamedTuple):
    """A session's end: its time by the producer, and the session's last tick."""

    number: int
    t_ms: int
    reason: str
    last_ms: int


class Place(NamedTuple):
    """Rows in a file of last rows: `rows` from row `first` on, of the frame at `offset`."""

    file: int
    offset: int
    first: int
    rows: int


class Description(NamedTuple):
    """An ended session: its facts, and the places of its last ten minutes of ticks."""

    instance: str
    start_ms: int
    interval_ms: int
    labels: Labels
    reason: str
    end_ms: int
    first_ms: int
    last_ms: int
    ticks: int
    series: int
    places: tuple[Place, ...]

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms


_NIL = msgpack.packb(None)
TABLE = np.dtype([("key", "<u8"), ("last_ms", "<i8"), ("offset", "<u4")])
INDEX = np.dtype([("kind", "<u4"), ("least_session", "<u4"), ("greatest_session", "<u4"), ("offset", "<u4")])


def instance_hash(instance: str) -> int:
    """32 bits: the upper half of `key_of`."""
    return crc32(instance.encode("utf-8", "surrogatepass"))


def key_of(instance: str, start_ms: int) -> int:
    """A 64-bit hash for look-ups of a session; two sessions may have the same key."""
    return instance_hash(instance) << 32 | crc32(start_ms.to_bytes(8, "little"))


def pack_sessions(records: Iterable[SessionRecord]) -> bytes:
    return b"".join(msgpack.packb((*one[:4], dict(one.labels), *one[5:])) for one in records)


def sessions_in(payload: bytes | memoryview) -> Iterator[SessionRecord]:
    """The sessions that a frame declares, without forgotten ones."""
    return (one for one in declared_in(payload) if not one.is_forgotten)


def declared_in(payload: bytes | memoryview) -> Iterator[SessionRecord]:
    """All sessions that a frame declares: forgotten ones still have a number and rows."""
    return map(_session_of, filter(None, _arrays(payload)))


def _session_of(array: tuple[Any, ...]) -> SessionRecord:
    number, instance, start_ms, interval_ms, labels, last_ms, before_ms = array
    if type(instance) is int:
        instance = f"{_FORGOTTEN}{instance}"
    ordered = tuple(sorted(labels.items()))
    return SessionRecord(number, instance, start_ms, interval_ms, ordered, last_ms, before_ms)


def without_sessions(
    payload: bytes | memoryview, is_wanted: Callable[[SessionRecord], bool], pseudonym: Callable[[str], int]
) -> bytes:
    """A SESSION frame's payload in which all unwanted sessions are forgotten."""
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=len(payload) + 1)
    unpacker.feed(payload)
    made, end = bytearray(payload), 0
    for array in unpacker:
        begin, end = end, unpacker.tell()
        if array is None or (one := _session_of(array)).is_forgotten or is_wanted(one):
            continue
        nobody = one._replace(instance="", interval_ms=0, labels=())
        packed = msgpack.packb((nobody.number, pseudonym(one.instance), *nobody[2:4], {}, *nobody[5:]))
        made[begin:end] = packed.ljust(end - begin, _NIL)
    assert len(made) == len(payload), "a frame must keep its length"
    return bytes(made)


def pack_ends(records: Iterable[EndRecord]) -> bytes:
    return b"".join(map(msgpack.Packer().pack, records))


def ends_in(payload: bytes | memoryview) -> Iterator[EndRecord]:
    return (EndRecord(*one) for one in _arrays(payload))


def pack_descriptions(descriptions: Sequence[Description]) -> bytes:
    """The payload of a DESCRIPTIONS frame, in the order given."""
    packed = [msgpack.packb((*one[:3], dict(one.labels), *one[4:])) for one in descriptions]
    table = np.zeros(len(packed), TABLE)
    table["key"] = [key_of(*one.key) for one in descriptions]
    table["last_ms"] = [one.last_ms for one in descriptions]
    sizes = np.array([len(one) for one in packed], np.int64)
    table["offset"] = len(packed) * TABLE.itemsize + np.cumsum(sizes) - sizes
    return table.tobytes() + b"".join(packed)


def description_table(payload: bytes | memoryview, entries: int) -> npt.NDArray[np.void]:
    """The table that a DESCRIPTIONS frame begins with."""
    return np.frombuffer(payload, TABLE, entries)


def descriptions_in(payload: bytes | memoryview, entries: int) -> Iterator[Description]:
    return map(description_of, packed_descriptions_in(payload, entries))


def description_at(payload: bytes | memoryview, entries: int, place: int) -> Description:
    """One description of a frame, without decoding the others."""
    return description_of(packed_description_at(payload, entries, place))


def packed_description_at(payload: bytes | memoryview, entries: int, place: int) -> tuple[Any, ...]:
    """The array of one description of a frame."""
    table = description_table(payload, entries)
    end = int(table["offset"][place + 1]) if place + 1 < entries else len(payload)
    return next(_arrays(payload[int(table["offset"][place]) : end]))


def unpack_description(data: bytes) -> Description:
    """The description that `data` begins with. Raises msgpack.OutOfData if `data` is too short."""
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    return description_of(unpacker.unpack())


def packed_descriptions_in(payload: bytes | memoryview, entries: int) -> Iterator[tuple[Any, ...]]:
    """The arrays of a frame's descriptions, for `description_of`."""
    return filter(None, _arrays(memoryview(payload)[entries * TABLE.itemsize :]))


def without_descriptions(
    payload: bytes | memoryview, entries: int, is_wanted: Callable[[Description], bool]
) -> tuple[bytes, int]:
    """A DESCRIPTIONS frame's payload with only the wanted ones, at their offsets; and their number."""
    table = description_table(payload, entries)
    places = [place for place in range(entries) if is_wanted(description_at(payload, entries, place))]
    made = bytearray(_NIL * len(payload))
    made[: len(places) * TABLE.itemsize] = table[places].tobytes()
    bounds = [*table["offset"].tolist(), len(payload)]
    for place in places:
        begin, end = bounds[place : place + 2]
        made[begin:end] = payload[begin:end]
    return bytes(made), len(places)


def description_of(array: tuple[Any, ...]) -> Description:
    *head, labels, reason, end_ms, first_ms, last_ms, ticks, series, places = array
    ordered = tuple(sorted(labels.items()))
    found = tuple(Place(*place) for place in places)
    return Description._make((*head, ordered, reason, end_ms, first_ms, last_ms, ticks, series, found))


def _arrays(payload: bytes | memoryview) -> Iterator[tuple[Any, ...]]:
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=len(payload) + 1)
    unpacker.feed(payload)
    return iter(unpacker)
