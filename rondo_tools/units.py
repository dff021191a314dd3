"""Durations, sizes and counts as people write and read them."""

from __future__ import annotations

import re

from rondo_tools.errors import UsageError

# Prometheus' duration units that have a fixed length.
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SIZE = re.compile(r"(\d{1,18})([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_duration(text: str, shortest_ms: int = 1) -> int:
    """``1s``, ``10m``, ``1h30m``, ``250ms``, ``2.5s``, or bare seconds (``45``), in milliseconds.

    Raises UsageError for anything else, and for a duration under `shortest_ms`.
    """
    spelled = f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    parts = list(_DURATION.finditer(spelled))
    if not parts or "".join(part[0] for part in parts) != spelled:
        raise UsageError(f"{text!r} is not a duration: write 500ms, 10s, 5m, 1h30m or 7d")
    ms = sum(float(part[1]) * _MS[part[2]] for part in parts)
    if ms < shortest_ms:
        raise UsageError(f"{text!r} is too short: {format_duration(shortest_ms)} is the shortest")
    if ms >= 2**53:
        raise UsageError(f"{text!r} is too long for a duration")
    return round(ms)


def format_duration(ms: int) -> str:
    """The shortest exact spelling that `parse_duration` reads back: 90000 is ``90s``, 600000 ``10m``."""
    for unit in ("w", "d", "h", "m", "s"):
        if ms >= _MS[unit] and ms % _MS[unit] == 0:
            return f"{ms // _MS[unit]}{unit}"
    return f"{ms}ms"


def parse_size(text: str) -> int:
    """``512``, ``64K``, ``16M``, ``1GiB``, in bytes; K, M, G, T are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size: write 512, 64K, 16M or 1G")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


def parse_count(text: str, most: int) -> int:
    """A number from 1 to `most`. Raises UsageError."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= most:
        raise UsageError(f"{text!r} is not a number between 1 and {most}")
    return int(text)


def format_count(count: int, noun: str) -> str:
    """``1 tick``, ``2 ticks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_size(size: int) -> str:
    """``1.1 MiB``: a size for people."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
