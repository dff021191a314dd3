"""Parses the flags that all producers share."""

from __future__ import annotations

from collections.abc import Collection

from rondo_tools import stream
from rondo_tools.errors import UsageError
from rondo_tools.stream import Header


def checked_header(bare: Header, labels: Collection[tuple[str, str]], added: Collection[str] = ()) -> Header:
    """`bare` with the labels of --label, checked like a reader of the stream does, together with the labels
    `added` that a session may get later. Raises UsageError, which names --instance or --label."""
    _check("--instance", bare)
    names = [name for name, _ in labels]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--label: {name!r} is given more than once")
    every = {**dict.fromkeys(added, "x"), **dict(labels)}
    _check("--label", bare._replace(labels=tuple(sorted(every.items()))))
    return bare._replace(labels=tuple(sorted(labels)))


def _check(flag: str, header: Header) -> None:
    try:
        stream.encode(header)
    except ValueError as exc:
        raise UsageError(f"{flag}: {exc}") from exc


def parse_label(text: str) -> tuple[str, str]:
    """The value of --label, NAME=VALUE. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is not NAME=VALUE, such as rack=a1")
    return name, value
