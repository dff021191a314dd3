"""A schema: the series of the values of a row, in their order.

Strategy: a thousand VMs have the same series, so a schema is cached by its packed bytes and made once. All
that follows from the series (the counters, the columns of a coarse row) is computed here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgpack
import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.errors import StoreError

LAST, AVG, MIN, MAX = "last", "avg", "min", "max"
NO_NAME = "_"
"""The name of the series in a schema that only forgotten sessions had."""


class Column(NamedTuple):
    """A column of a row: `aggregate` of the schema's series number `series`."""

    series: int
    aggregate: str


class Schema:
    """The series of a row. Schemas with the same bytes are equal. Made by `schema_of` and `unpack_schema`."""

    __slots__ = (
        "__weakref__", "coarse", "coarse_width", "counters", "gauges", "packed", "places", "series", "width",
    )  # fmt: skip

    def __init__(self, series: tuple[Series, ...], packed: bytes) -> None:
        self.series = series
        self.packed = packed
        self.width = len(series)
        self.counters = _indices(n for n, one in enumerate(series) if one.kind == COUNTER)
        self.gauges = _indices(n for n, one in enumerate(series) if one.kind != COUNTER)
        self.coarse = tuple(
            Column(number, aggregate)
            for number, one in enumerate(series)
            for aggregate in ((LAST,) if one.kind == COUNTER else (AVG, MIN, MAX))
        )
        self.coarse_width = len(self.coarse)
        # The columns of each aggregate in a coarse row.
        self.places = {
            aggregate: _indices(at for at, column in enumerate(self.coarse) if column.aggregate == aggregate)
            for aggregate in (LAST, AVG, MIN, MAX)
        }

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Schema) and self.packed == other.packed)

    def __hash__(self) -> int:
        return hash(self.packed)

    def columns(self, tier: int) -> tuple[Column, ...]:
        """The columns of a tier's rows: in tier 0 the values; in the others a counter's last value and a
        gauge's average, minimum and maximum."""
        return tuple(Column(n, LAST) for n in range(self.width)) if tier == 0 else self.coarse

    def width_in(self, tier: int) -> int:
        return self.width if tier == 0 else self.coarse_width


def _indices(numbers: Iterable[int]) -> npt.NDArray[np.intp]:
    return np.array(list(numbers), np.intp)


# Weak references: a schema may have a mebibyte, and is dropped with its last user.
_known: WeakValueDictionary[bytes, Schema] = WeakValueDictionary()


def schema_of(series: tuple[Series, ...]) -> Schema:
    """The schema of a header's series."""
    return unpack_schema(
        bytes(msgpack.packb([one._asdict() | {"labels": dict(one.labels)} for one in series]))
    )


def unpack_schema(packed: bytes) -> Schema:
    """The schema in the payload of a SCHEMA frame. Raises StoreError if it is none."""
    known = _known.get(packed)
    if known is not None:
        return known
    try:
        series = tuple(
            Series(one["name"], tuple(sorted(one["labels"].items())), one["kind"], one["unit"], one["help"])
            for one in msgpack.unpackb(packed)
        )
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as exc:
        raise StoreError(f"not a schema: {exc!r}") from exc
    return _known.setdefault(packed, Schema(series, packed))


def without_names(packed: bytes) -> bytes:
    """A schema of the same length and width, which keeps only the kinds of the series."""
    series = [
        {"name": NO_NAME, "labels": {}, "kind": one.kind, "unit": ""} for one in unpack_schema(packed).series
    ]
    made = bytes(msgpack.packb([one | {"help": ""} for one in series]))[:-1]
    return made + _blank(len(packed) - len(made))


def _blank(size: int) -> bytes:
    """A msgpack string that takes so many bytes."""
    for head in (b"\xd9", b"\xda", b"\xdb"):
        of_length = 1 << (head[0] - 0xD9)
        if (length := size - 1 - of_length) < 1 << 8 * of_length and length >= 0:
            return head + length.to_bytes(of_length, "big") + b" " * length
    return bytes([0xA0 | size - 1])  # a single byte


def union(schemas: Sequence[Schema]) -> Schema:
    """The series of all schemas: those of the first, then the new ones of each other."""
    found: dict[tuple[object, ...], Series] = {}
    for schema in schemas:
        for one in schema.series:
            found.setdefault(_identity(one), one)
    series = tuple(found.values())
    return schemas[0] if len(series) == schemas[0].width else schema_of(series)


def _identity(series: Series) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """The identity of a series; one that changed from a counter to a gauge is another."""
    return series.name, series.labels, series.kind


@lru_cache(maxsize=1024)
def places_in(part: Schema, whole: Schema, tier: int) -> npt.NDArray[np.intp]:
    """The column in `whole`, a union with `part`, of each column of `part`'s rows in a tier."""
    at = {_identity(one): number for number, one in enumerate(whole.series)}
    columns = {column: number for number, column in enumerate(whole.columns(tier))}
    return _indices(
        columns[Column(at[_identity(part.series[column.series])], column.aggregate)]
        for column in part.columns(tier)
    )
