"""What the values of flags that all producers have mean."""

from __future__ import annotations

from rondo_tools.errors import UsageError
from rondo_tools.units import format_duration, parse_duration


def parse_interval(text: str, shortest_ms: int) -> int:
    """The milliseconds between two ticks, as --interval takes it. Raises UsageError."""
    ms = parse_duration(text)
    if ms < shortest_ms:
        raise UsageError(f"{text!r} is too short: {format_duration(shortest_ms)} is the shortest interval")
    return ms


def parse_label(text: str) -> tuple[str, str]:
    """NAME=VALUE, as --label takes it. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is not NAME=VALUE")
    return name, value
