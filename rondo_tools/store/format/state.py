"""`state.json`: the commit of each roll-up, replaced whole.

    {"format": 2,
     "rolled_up": 41,         journals up to this number are rolled up
     "carry": 17,             the carry is carry_17; 0: there is none
     "journals": {"41": 1732300000000},  when each of these journals was closed
     "files": {"tier_1": {"3": {"length": 123456, "begun_ms": …, "closed_ms": 0, "index_at": 0}},
               "tier_2": {…}, "ended": {…}, "last_rows": {…}},
     "next": {"tier_1": 4, …},   the number of each folder's next file
     "looks_ms": [1732296400000, 1732300000000],  the clock at the last looks for expired files
     "evictions": [{"tier": 0, "from_ms": …, "to_ms": …, "bytes": …, "delivered": false}, …],
     "restored": "0123456789abcdef"}  the last restore; the files in its folder belong to the store

A file that is not named here is no data, nor are bytes beyond the `length` of one that is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rondo_tools.errors import StoreError
from rondo_tools.store.format.frames import FORMAT

MAX_EVICTIONS = 100


@dataclass(slots=True)
class DerivedFile:
    """A file that roll-ups append to, until it is closed: `closed_ms` is 0 while it is not.

    `index_at` is the offset of the index of all its frames, once it is closed.
    """

    length: int
    begun_ms: int
    closed_ms: int = 0
    index_at: int = 0


@dataclass(frozen=True, slots=True)
class Eviction:
    """An evicted file of `tier`, with ticks from `from_ms` to `to_ms`."""

    tier: int
    from_ms: int
    to_ms: int
    bytes: int
    delivered: bool


@dataclass(slots=True)
class State:
    rolled_up: int = 0
    carry: int = 0
    journals: dict[int, int] = field(default_factory=dict)
    files: dict[str, dict[int, DerivedFile]] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)
    looks_ms: list[int] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    restored: str = ""

    def pack(self) -> bytes:
        document = {"format": FORMAT} | asdict(self)
        document["evictions"] = document["evictions"][-MAX_EVICTIONS:]
        return json.dumps(document).encode()


def parse_state(data: bytes) -> State:
    """Raises StoreError, without the file's name, if it is not a state of this format."""
    try:
        document: dict[str, Any] = json.loads(data)
        if document.pop("format") != FORMAT:
            raise StoreError(f"not of store format {FORMAT}")
        state = State(
            rolled_up=int(document["rolled_up"]),
            carry=int(document["carry"]),
            journals={int(number): int(closed_ms) for number, closed_ms in document["journals"].items()},
            files={
                folder: {int(number): DerivedFile(**one) for number, one in files.items()}
                for folder, files in document["files"].items()
            },
            next={folder: int(number) for folder, number in document["next"].items()},
            looks_ms=[int(look) for look in document["looks_ms"]],
            evictions=[Eviction(**one) for one in document["evictions"]],
            restored=str(document.get("restored", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise StoreError(f"not a store's state ({exc!r})") from exc
    return state
