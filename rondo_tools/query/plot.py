"""Draws curves in the terminal, with plotext (the extra `plot`).

Strategy: plotext draws the canvas; the ticks at round times and values, and the legend below, are our own,
because plotext's legend covers the curves. In colour all curves are fine lines; without colour, each is
drawn with its own letter. A line breaks where values are missing. If the output's encoding lacks these
lines, everything is ASCII: the letters, and a frame of ``-``, ``|`` and ``+``.
"""

from __future__ import annotations

import os
import string
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TextIO

import numpy as np

from rondo_tools.errors import EX_UNAVAILABLE, RondoError, UsageError
from rondo_tools.printable import encodable
from rondo_tools.query.curve import Curve, Times, Values
from rondo_tools.query.face import UTC, Face
from rondo_tools.query.names import word

MAX_CURVES = len(string.ascii_letters)
MIN_WIDTH, MIN_HEIGHT = 40, 10
MAX_SIZE = 2000
SINCE_BIRTH = "since each session began"

_LINES = "─│┌┐└┘├┤┬┴┼"
_ASCII = str.maketrans(_LINES, "-|+++++++++")
_FINE = "⣿━"  # the characters of curves, and of the legend, in colour
_COLORS = ("blue+", "orange", "green+", "red+", "magenta+", "cyan+", "gold", "white", "gray+")
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_STEPS = (
    *(each * _SECOND for each in (1, 2, 5, 10, 15, 30)),
    *(each * _MINUTE for each in (1, 2, 5, 10, 15, 30)),
    *(each * _HOUR for each in (1, 2, 3, 6, 12)),
    *(each * _DAY for each in (1, 2, 7, 14, 28, 91, 182, 364)),
)


def check(width: int, height: int) -> None:
    """Raises UsageError for an invalid size."""
    if not (MIN_WIDTH <= width <= MAX_SIZE and MIN_HEIGHT <= height <= MAX_SIZE):
        raise UsageError(
            f"--width and --height: a plot needs {MIN_WIDTH} x {MIN_HEIGHT} characters, "
            f"and has {MAX_SIZE} at most each way"
        )


def draw(
    curves: Sequence[Curve],
    out: TextIO,
    *,
    width: int,
    height: int,
    color: bool,
    rate: bool = False,
    face: Face = UTC,
) -> None:
    """Draw at most MAX_CURVES `curves` on `width` x `height` characters of `out`, with the legend if it fits.

    Raises UsageError if the size is too small, RondoError (EX_UNAVAILABLE) without plotext.
    """
    check(width, height)
    plotext = _plotext()
    lines = [line(curve) for curve in curves]
    has_lines = encodable(_LINES + _FINE, out.encoding) == _LINES + _FINE
    letters = not (color and has_lines) or len(curves) > len(_COLORS)
    bottom, top = _extent([values for _, values in lines])
    scale = _scale(bottom, top)
    legend = []
    plotext.clear_figure()
    plotext.limit_size(False, False)  # to its own measure of the terminal
    plotext.plotsize(width, max(MIN_HEIGHT, height - len(curves) - 1))
    plotext.theme("clear")
    for number, ((t_ms, values), label) in enumerate(zip(lines, labels(curves, face), strict=True)):
        marker = string.ascii_letters[number] if letters else "braille"
        hue = _COLORS[number % len(_COLORS)] if color else None
        plotext.plot(t_ms.tolist(), (values * scale).tolist(), marker=marker, color=hue)
        sign = (marker if letters else "━") * 2
        legend.append(f"{plotext.colorize(sign, hue) if color else sign} {label}\n")
    low, high = _extent([t_ms for t_ms, _ in lines])
    plotext.xticks(*time_ticks(int(low), int(high), width // 12, face))
    plotext.xlabel(_time_label(int(low), int(high), face))
    ticks, tick_labels = _value_ticks(bottom * scale, top * scale, scale)
    plotext.yticks(ticks, tick_labels)
    plotext.ylabel(encodable(unit(curves, rate=rate), out.encoding))
    picture = plotext.build()
    if not has_lines:
        picture = picture.translate(_ASCII)
    out.write(picture if color else plotext.uncolorize(picture))
    out.writelines(legend)


def wants_color(out: TextIO) -> bool:
    """Whether `out` is a terminal with colours, and NO_COLOR (no-color.org) is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_values(curve: Curve) -> bool:
    """Whether there is anything to draw."""
    return bool(np.isfinite(curve.values).any())


def _plotext() -> Any:
    try:
        import plotext
    except ImportError:
        raise RondoError(
            "plot needs plotext, which is not installed: pip install 'rondo-tools[plot]'",
            exit_code=EX_UNAVAILABLE,
        ) from None
    return plotext


def line(curve: Curve) -> tuple[Times, Values]:
    """The points to draw; each gap in time and each infinity is a NaN, which breaks the line."""
    values = np.where(np.isfinite(curve.values), curve.values, np.nan)
    gaps = np.flatnonzero(np.diff(curve.t_ms) > 2 * curve.step_ms) + 1
    return np.insert(curve.t_ms, gaps, curve.t_ms[gaps - 1] + 1), np.insert(values, gaps, np.nan)


def labels(curves: Sequence[Curve], face: Face = UTC) -> list[str]:
    """The series, with the session's start if a series of several sessions is drawn."""
    names = Counter(curve.name for curve in curves)
    shown = face._replace(elapsed=False).time
    return [
        word(curve.name)
        + (
            f"  session {shown(curve.start_ms)}"
            if names[curve.name] > 1 and curve.start_ms is not None
            else ""
        )
        for curve in curves
    ]


def _extent(arrays: Sequence[Times] | Sequence[Values]) -> tuple[float, float]:
    return min(float(np.nanmin(each)) for each in arrays), max(float(np.nanmax(each)) for each in arrays)


def time_ticks(low: int, high: int, most: int, face: Face) -> tuple[list[int], list[str]]:
    """At most `most` round times between `low` and `high` (ms); `low` if there are none."""
    coarsest = -(-(high - low + 1) // (most * _STEPS[-1])) * _STEPS[-1]
    step = next((step for step in _STEPS if (high - low) // step < most), coarsest)
    ahead = face.ahead_ms(low)  # of UTC; if it changes within the plot, later times are less round
    ticks = list(range(-(-(low + ahead) // step) * step - ahead, high + 1, step)) or [low]
    if face.elapsed:
        return ticks, [str(timedelta(seconds=tick // 1000)) for tick in ticks]
    cut = slice(5, 10) if step >= _DAY else slice(11, 16) if step >= _MINUTE else slice(11, 19)
    return ticks, [text[cut] for text in face.times(ticks)]


def _time_label(low: int, high: int, face: Face) -> str:
    if face.elapsed:
        return SINCE_BIRTH
    zones = list(dict.fromkeys(face.zone(each) for each in (low, high)))
    first, last = (text[:10] for text in face.times([low, high]))
    return f"{first if first == last else f'{first} to {last}'} {', '.join(zones)}"


def _scale(low: float, high: float) -> float:
    """A factor with which sums and differences of the values do not overflow or vanish."""
    largest = max(abs(low), abs(high))
    return 1e-100 if largest > 1e300 else 1e100 if 0 < largest < 1e-290 else 1.0


def _value_ticks(low: float, high: float, scale: float) -> tuple[list[float], list[str]]:
    """About five round values between `low` and `high`, and their labels: 1.5M for large ones.

    The labels are without `scale`.
    """
    if low == high:
        return [low], [_short(low / scale)]
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    ticks = [float(number * step) for number in range(first, last + 1)]
    return ticks, [_short(tick / scale) for tick in ticks]


def _short(value: float) -> str:
    """``1.5M``: at most six digits; values too large for a prefix as powers of ten."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size <= abs(value) < 1e15:
            return f"{value / size:.6g}{prefix}"
    return f"{value:.6g}"


def unit(curves: Sequence[Curve], *, rate: bool) -> str:
    units = {curve.series.unit for curve in curves}
    unit = word(units.pop()) if len(units) == 1 else ""
    return f"{unit} per second".strip() if rate else unit
