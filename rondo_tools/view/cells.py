"""Text in the cells of a terminal: its width, cut or padded to a width; numbers in a few cells; styles."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from rondo_tools.view.state import RUNNING, SILENT

REVERSE, BOLD, DIM, RED, YELLOW, PLAIN = "\x1b[7m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*#@"
_BAD_ENDS = frozenset({"error", "lost", "gone", "deadline", "shutdown"})
_LETTERS = ("", "k", "M", "G", "T", "P", "E")


def style_of(state: str) -> str:
    """The style of a state: none while it runs, dim after a normal end, a colour for trouble."""
    if state in (RUNNING, ""):
        return ""
    return YELLOW if state == SILENT else RED if state in _BAD_ENDS else DIM


def width(text: str) -> int:
    """The number of cells of a printable text."""
    return len(text) if text.isascii() else sum(map(_width, text))


def fit(text: str, size: int, *, right: bool = False, mark: str = "~") -> str:
    """`text` in exactly `size` cells: padded, or cut, with a `mark` of one cell at the end."""
    missing = size - width(text)
    if missing < 0:
        taken, left = [], size - 1
        for char in text:
            left -= _width(char)
            if left < 0:
                break
            taken.append(char)
        text = "".join(taken) + mark if size > 0 else ""
        missing = size - width(text)
    return " " * missing + text if right else text + " " * missing


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def amount(value: float, base: int = 1000) -> str:
    """``0``, ``0.5``, ``12``, ``9.9k``, ``64M``, ``1e30``; ``-`` without a value.

    At most five cells; a negative value below -1e100 has six.
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    scaled = value
    for letter in _LETTERS:
        if abs(scaled) < 999.5:
            is_small = abs(scaled) < 9.95 and (letter or scaled != round(scaled))
            return f"{scaled:.1f}{letter}" if is_small else f"{scaled:.0f}{letter}"
        scaled /= base
    return f"{value:.0e}".replace("e+", "e")


def bytes_(value: float) -> str:
    """In powers of 1024, as usual for the memory of a process."""
    return amount(value, 1024)


def percent(value: float) -> str:
    """Of one CPU."""
    return "-" if math.isnan(value) else f"{value * 100:.0f}%"


def seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{amount(value)}s"


def latency(ns: float, *, ascii_only: bool = False) -> str:
    """``850ns``, ``12us``, ``1.5ms``."""
    if math.isnan(ns):
        return "-"
    for unit, size in (("ns", 1), ("us" if ascii_only else "µs", 1e3), ("ms", 1e6)):
        if abs(ns / size) < 999.5:
            value = ns / size
            return f"{value:.1f}{unit}" if value < 9.95 and size > 1 else f"{value:.0f}{unit}"
    return f"{ns / 1e9:.1f}s" if abs(ns) < 1e14 else f"{amount(ns / 1e9)}s"


def age(ms: int) -> str:
    """``45s``, ``12m``, ``7h``, ``12d``: in one unit, rounded down."""
    total = ms // 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if total >= (2 if unit == "m" else 1) * size:
            return f"{total // size}{unit}"
    return f"{total}s"


def span(ms: int) -> str:
    """``4.8s``, ``45s``, ``12m05s``, ``7h09m``, ``12d4h``: a duration in at most two units."""
    if ms < 9_950:
        return f"{ms / 1000:.1f}s"
    total = ms // 1000
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02}s"
    if total < 86_400:
        return f"{total // 3600}h{total % 3600 // 60:02}m"
    return f"{total // 86_400}d{total % 86_400 // 3600}h"


def ago(ms: int) -> str:
    """``now``, ``3s ago``, ``12m ago``, or ``2h ahead`` of our clock."""
    if abs(ms) < 1000:
        return "now"
    return f"{age(ms)} ago" if ms > 0 else f"{age(-ms)} ahead"


def sparkline(values: Sequence[float], newest: int, size: int, blocks: str) -> str:
    """The values in at most `size` cells, the newest last; a blank for an unknown value.

    A cell may have several values, and shows the greatest. The numbers of the values, of which the last is
    `newest`, decide which share a cell: so the line moves with time and keeps its shape.
    """
    step = -(-len(values) // max(size, 1))
    first = (len(values) - (newest + 1) % step) % step
    edges = sorted({0, *range(first, len(values), step), len(values)})
    cells = [
        max((one for one in values[begin:end] if not math.isnan(one)), default=math.nan)
        for begin, end in pairwise(edges)
    ]
    cells = cells[max(0, len(cells) - size) :]
    most = max((one for one in cells if not math.isnan(one)), default=0.0)
    return "".join(_block(one, most, blocks) for one in cells)


def _block(value: float, most: float, blocks: str) -> str:
    if math.isnan(value):
        return " "
    if most <= 0 or math.isinf(most):
        return blocks[0]
    return blocks[min(int(value / most * len(blocks)), len(blocks) - 1)]
