"""Headers and ends as maps: what msgpack carries, with every field checked.

Strategy: one function for each field or map, which returns the value or raises InvalidError with a message
that shows it. The caller adds the offset in the stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rondo_tools.catalog import KINDS, Series
from rondo_tools.stream.model import MAX_LABELS, MAX_SERIES, MAX_T_MS, MAX_TEXT, VERSION, End, Header

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
REASON = re.compile(r"[a-z]{1,32}")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")  # Prometheus reserves "__"


class InvalidError(ValueError):
    """A message is invalid; the caller adds the offset."""


def header_to_map(header: Header) -> dict[str, Any]:
    """The header as the map that msgpack carries."""
    return {
        "rondo": VERSION,
        "instance": header.instance,
        "start_ms": header.start_ms,
        "labels": dict(header.labels),
        "interval_ms": header.interval_ms,
        "series": [series._asdict() | {"labels": dict(series.labels)} for series in header.series],
    }


def header_from_map(message: Mapping[str, Any]) -> Header:
    """The header of a map, every field checked. Raises ValueError if one is invalid."""
    version = message.get("rondo")
    if version != VERSION or type(version) is not int:
        raise InvalidError(
            f"version {shown(version)} of the stream is not supported (this is version {VERSION})"
        )
    items = message.get("series")
    if not isinstance(items, Sequence) or isinstance(items, str | bytes) or not items:
        raise InvalidError("the header's series are not a list with at least one entry")
    if len(items) > MAX_SERIES:
        raise InvalidError(f"the header has {len(items)} series; {MAX_SERIES} is the limit")
    header = header_of(message, series_from_maps(items))
    check_identity(header)
    return header


def header_of(message: Mapping[str, Any], series: tuple[Series, ...]) -> Header:
    """The header of a map and its checked series; `check_identity` is the caller's."""
    return Header(
        instance=_text(message, "instance"),
        start_ms=time_of(message, "start_ms"),
        labels=_labels(message),
        interval_ms=time_of(message, "interval_ms"),
        series=series,
    )


def series_from_maps(items: Sequence[Any]) -> tuple[Series, ...]:
    """The series of a list of maps. Equal lists, as those of many VMs, are checked and kept once."""
    try:
        frozen = tuple(
            (
                item.get("name"),
                tuple(item.get("labels", {}).items()),
                item.get("kind"),
                item.get("unit", ""),
                item.get("help", ""),
            )
            for item in items
        )
        return _known_series(frozen)
    except (AttributeError, TypeError):  # an item is not a map, or contains one that is not hashable
        return tuple(map(_series, items))


@lru_cache(maxsize=8)  # few, because a header may be large
def _known_series(frozen: tuple[tuple[Any, ...], ...]) -> tuple[Series, ...]:
    return tuple(
        _series({"name": name, "labels": dict(labels), "kind": kind, "unit": unit, "help": text})
        for name, labels, kind, unit, text in frozen
    )


def check_identity(header: Header) -> None:
    """Check that each series is there once, and that no label or kind contradicts another."""
    common = {name for name, _ in header.labels}
    if "instance" in common:
        raise InvalidError("the label 'instance' is the header's instance and cannot be set")
    seen = set()
    kinds: dict[str, str] = {}
    for series in header.series:
        identity = (series.name, series.labels)
        if identity in seen:
            raise InvalidError(f"the series {shown(str(series))} is repeated")
        seen.add(identity)
        if kinds.setdefault(series.name, series.kind) != series.kind:
            raise InvalidError(f"{shown(series.name)} is a counter and a gauge at once")
        for name, _ in series.labels:
            if name in common or name == "instance":
                raise InvalidError(f"the label {shown(name)} of {series.name} is also one of the header's")


def _text(item: Mapping[str, Any], key: str, *, may_be_empty: bool = False) -> str:
    value = item.get(key, "" if may_be_empty else None)
    if not isinstance(value, str):
        raise InvalidError(f"{key!r} is {shown(value)}, not a string")
    if not value and not may_be_empty:
        raise InvalidError(f"{key!r} is empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidError(f"{key!r} is not valid UTF-8") from None
    if size > MAX_TEXT:
        raise InvalidError(f"{key!r} has {size} bytes; {MAX_TEXT} is the limit")
    return value


def time_of(item: Mapping[str, Any], key: str) -> int:
    """The field `key`, Unix milliseconds or an interval in milliseconds."""
    value = item.get(key)
    if type(value) is not int or not 0 < value <= MAX_T_MS:
        raise InvalidError(f"{key!r} is {shown(value)}, not milliseconds between 1 and 2^53-1")
    return value


def _labels(item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    labels = item.get("labels", {})
    if not isinstance(labels, Mapping):
        raise InvalidError(f"'labels' is {shown(labels)}, not a map")
    if len(labels) > MAX_LABELS:
        raise InvalidError(f"{len(labels)} labels are more than {MAX_LABELS}")
    for name in labels:
        if not isinstance(name, str) or len(name) > MAX_TEXT or not _LABEL_NAME.fullmatch(name):
            raise InvalidError(f"{shown(name)} is not a label name")
    return tuple(sorted((name, _text(labels, name)) for name in labels))


def _series(item: object) -> Series:
    if not isinstance(item, Mapping):
        raise InvalidError(f"a series is {shown(item)}, not a map")
    name = _text(item, "name")
    if not _METRIC_NAME.fullmatch(name):
        raise InvalidError(f"{shown(name)} is not a metric name")
    kind = item.get("kind")
    if kind not in KINDS:
        raise InvalidError(f"the kind of {name} is {shown(kind)}, not one of {', '.join(KINDS)}")
    unit = _text(item, "unit", may_be_empty=True)
    return Series(name, _labels(item), kind, unit, _text(item, "help", may_be_empty=True))


def end_from_map(message: Mapping[str, Any]) -> End:
    """The end of a map, every field checked. Raises ValueError if one is invalid."""
    reason = message.get("end")
    if not isinstance(reason, str) or not REASON.fullmatch(reason):
        raise InvalidError(f"the end's reason is {shown(reason)}, not 1 to 32 lower-case letters")
    return End(reason, time_of(message, "t_ms"))


def shown(value: object) -> str:
    """A value of the input, shortened for an error message."""
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
