"""The cursor's file: the progress of one delivery, in a few hundred bytes.

    {"version": 2, "store": "id", "tier": 0, "selector": "",
     "from": [41, "file id", 40],      everything before this position is dealt with
     "to": [42, "file id", 123456],    the frozen end of the current stretch; null between two stretches
     "slice": 3, "done": 1200,         in that stretch: slices, and rows of the next one, that are dealt with
     "time_ms": 1732300000000,         the newest time in whole slices so far
     "floor_ms": 0,                    after a fork: rows not later than this are dealt with
     "known": [[41, "file id"], …],    the files of the last ends of stretches
     "since_ms": 0,                    in a first delivery: older rows are left out
     "future_ms": 0,                   a delivered time after this does not hold back an instance's later rows
     "coarse": null,                   or [1, 41, 44]: owes tier 1 of journals 41 to 43, which are gone
     "in_flight": null}                or the batch that was announced and may be received (rondo_tools.push)

Strategy: a position is a file's number, its random id and an offset. A file with this number and
another id is another history: a backup was put back, or it is another store. The store reads positions to
know which journals are delivered; only a push writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

VERSION = 2
KNOWN = 8


class Position(NamedTuple):
    """A place between two frames of file `number`, whose header has the id `file_id`."""

    number: int
    file_id: bytes
    offset: int


@dataclass(slots=True)
class Progress:
    """See above. `begin` is None before the first delivery."""

    store: str = ""
    tier: int = 0
    selector: str = ""
    begin: Position | None = None
    end: Position | None = None
    slice: int = 0
    done: int = 0
    time_ms: int = 0
    floor_ms: int = 0
    known: list[tuple[int, bytes]] = field(default_factory=list)
    since_ms: int = 0
    future_ms: int = 0
    coarse: tuple[int, int, int] | None = None

    def finish(self) -> None:
        """The stretch is dealt with: the next one begins at its end."""
        self.begin, self.end = self.end, None
        self.slice = self.done = self.since_ms = self.future_ms = 0

    def finish_slice(self, newest_ms: int) -> None:
        """The rows of a slice are dealt with; `newest_ms` is the newest of them."""
        self.slice, self.done = self.slice + 1, 0
        self.time_ms = max(self.time_ms, newest_ms)

    def restart(self, end: Position | None = None) -> None:
        """No row of the stretch up to `end`, or of the next one, is dealt with."""
        self.end = end
        self.slice = self.done = 0

    def freeze(self, end: Position) -> None:
        """Begin a stretch up to `end`."""
        self.restart(end)
        known = [one for one in self.known if one[0] != end.number]
        self.known = [*known, (end.number, end.file_id)][-KNOWN:]


def pack_progress(progress: Progress, in_flight: Mapping[str, Any] | None) -> bytes:
    document = {
        "version": VERSION,
        "store": progress.store,
        "tier": progress.tier,
        "selector": progress.selector,
        "from": _pack(progress.begin),
        "to": _pack(progress.end),
        "slice": progress.slice,
        "done": progress.done,
        "time_ms": progress.time_ms,
        "floor_ms": progress.floor_ms,
        "known": [[number, file_id.hex()] for number, file_id in progress.known],
        "since_ms": progress.since_ms,
        "future_ms": progress.future_ms,
        "coarse": progress.coarse,
        "in_flight": in_flight,
    }
    return json.dumps(document).encode()


def parse_progress(data: bytes) -> tuple[Progress, dict[str, Any] | None]:
    """The progress, and the undecoded batch in flight. Raises ValueError with the error."""
    try:
        document = json.loads(data)
        version = document["version"]
        if version != VERSION or type(version) is not int:
            raise ValueError(f"version {version!r} of a cursor; this rondo reads version {VERSION}")
        in_flight = document["in_flight"]
        if in_flight is not None and type(in_flight) is not dict:
            raise ValueError("'in_flight' is no map")
        coarse = document["coarse"]
        progress = Progress(
            store=_text(document["store"]),
            tier=_number(document["tier"]),
            selector=_text(document["selector"]),
            begin=_unpack(document["from"]),
            end=_unpack(document["to"]),
            slice=_number(document["slice"]),
            done=_number(document["done"]),
            time_ms=_number(document["time_ms"]),
            floor_ms=_number(document["floor_ms"]),
            known=[(_number(number), bytes.fromhex(file_id)) for number, file_id in document["known"]],
            since_ms=_number(document["since_ms"]),
            future_ms=_number(document["future_ms"]),
            coarse=None if coarse is None else (_number(coarse[0]), _number(coarse[1]), _number(coarse[2])),
        )
    except KeyError as exc:
        raise ValueError(f"{exc} is missing") from exc
    except (TypeError, AttributeError, IndexError, RecursionError) as exc:
        raise ValueError(f"not a cursor: {exc}") from exc
    return progress, in_flight


def _pack(position: Position | None) -> list[int | str] | None:
    return position and [position.number, position.file_id.hex(), position.offset]


def _unpack(value: Any) -> Position | None:
    if value is None:
        return None
    number, file_id, offset = value
    return Position(_number(number), bytes.fromhex(file_id), _number(offset))


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no number from 0 on")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value
