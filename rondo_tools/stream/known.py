"""Lists of series that were checked before, because the VMs of a host mostly send the same one.

Strategy: keep the last few lists with their packed bytes. The series of a header with these bytes need no
decoding, and a list that was packed before needs no packing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from rondo_tools.catalog import Series
from rondo_tools.stream.maps import header_from_map, header_to_map
from rondo_tools.stream.model import Header


class KnownSeries(NamedTuple):
    """The series of a decoded header, and their packed bytes, by which the next header is recognized."""

    packed: bytes
    series: tuple[Series, ...]
    label_names: frozenset[str]  # names that the header's own labels cannot use


_known: tuple[KnownSeries, ...] = ()  # the newest first
_MOST_KNOWN = 8
_MOST_KNOWN_BYTES = 1 << 16  # of one


def known_at(piece: bytes, at: int) -> KnownSeries | None:
    """The remembered series whose bytes are at `at`."""
    for known in _known:
        if piece.startswith(known.packed, at):
            return known
    return None


def remember(series: tuple[Series, ...], items: Any) -> None:
    """Remember decoded series, so that the next VM's header with the same ones is not decoded again."""
    global _known
    new = _pack(series, items)
    if len(new.packed) <= _MOST_KNOWN_BYTES:
        others = (known for known in _known if known.packed != new.packed)
        _known = (new, *others)[:_MOST_KNOWN]


def _pack(series: tuple[Series, ...], items: Any) -> KnownSeries:
    names = frozenset({"instance"}.union(*(dict(one.labels) for one in series)))
    return KnownSeries(bytes(msgpack.packb(items)), series, names)


@lru_cache(maxsize=_MOST_KNOWN)
def checked(series: tuple[Series, ...]) -> KnownSeries:
    """Check and pack a list of series, each list once. Raises ValueError."""
    message = header_to_map(Header("any", 1, (), 1, series))
    header_from_map(message)
    return _pack(series, message["series"])


def forget_series() -> None:
    """Forget all remembered series."""
    global _known
    _known = ()
