"""Draws curves into a file, SVG or PNG, with matplotlib (the extra `plot-file`).

Strategy: use a Figure without pyplot and its global state. Names of curves, breaks of lines and labels of
axes are the same as in the terminal. The same curves give the same file for every user: it has no date, and
matplotlib's settings are not read.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rondo_tools.errors import EX_UNAVAILABLE, RondoError, StoreError, UsageError
from rondo_tools.query import plot
from rondo_tools.query.curve import Curve, Values
from rondo_tools.query.face import UTC, Face

WIDTH, HEIGHT = 1200, 600  # pixels
MIN_SIZE, MAX_SIZE = 100, 10_000
_DPI = 100
_COLORS, _LINES = 10, ("-", "--", ":", "-.")  # colours of matplotlib's cycle; a line style for each round
MAX_CURVES = _COLORS * len(_LINES)
_TICKS = 8  # on the axis of times
# No date in the file; SVG keeps text as text, for search and screen readers.
_METADATA: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".png": {}}
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "rondo", "text.parse_math": False}


def check(path: Path, width: int, height: int) -> None:
    """Raises UsageError for an invalid file name or size."""
    if path.suffix.lower() not in _METADATA:
        raise UsageError(f"--output {path}: the name must end in {' or '.join(_METADATA)}")
    if not (MIN_SIZE <= width <= MAX_SIZE and MIN_SIZE <= height <= MAX_SIZE):
        raise UsageError(f"--width and --height: a picture has {MIN_SIZE} to {MAX_SIZE} pixels each way")


def draw(
    curves: Sequence[Curve], path: Path, *, width: int, height: int, rate: bool = False, face: Face = UTC
) -> None:
    """Draw at most MAX_CURVES `curves` on `width` x `height` pixels, with a legend. Raises RondoError."""
    matplotlib = _matplotlib()
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that no font has
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        axes = figure.add_subplot()
        for number, (curve, label) in enumerate(zip(curves, plot.labels(curves, face), strict=True)):
            t_ms, values = plot.line(curve)
            style: dict[str, Any] = {
                "color": f"C{number % _COLORS}",
                "linestyle": _LINES[number // _COLORS],
                "linewidth": 1.2,
            }
            times = t_ms if face.elapsed else t_ms.astype("datetime64[ms]")
            axes.plot(times, values, label=label, **style, **_marker(values))
        if face.elapsed:
            low, high = min(int(each.t_ms[0]) for each in curves), max(int(each.t_ms[-1]) for each in curves)
            axes.set_xticks(*plot.time_ticks(low, high, _TICKS, face))
            axes.set_xlabel(plot.SINCE_BIRTH)
        else:
            locator = AutoDateLocator()
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))
            axes.set_xlabel("UTC")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel(plot.unit(curves, rate=rate))
        axes.grid(alpha=0.3)
        columns = -(-len(curves) // 10)
        figure.legend(loc="outside lower left", fontsize="small", frameon=False, ncols=columns)
        try:
            figure.savefig(path, metadata=_METADATA[path.suffix.lower()])
        except OSError as exc:
            raise RondoError(f"--output {path}: {exc.strerror or exc}", exit_code=EX_UNAVAILABLE) from exc
        except (ValueError, OverflowError) as exc:  # such as a year outside its calendar
            raise StoreError(f"--output {path}: these times or values cannot be drawn: {exc}") from exc


def _marker(values: Values) -> dict[str, Any]:
    """Markers for single points, because a line of one point is invisible."""
    there = np.concatenate(([False], np.isfinite(values), [False]))
    alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])
    return {"marker": ".", "markevery": alone.tolist()} if alone.size else {}


def _matplotlib() -> Any:
    for name in ("matplotlib", "PIL"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they log fonts, caches and chunks
    try:
        with _without_settings():
            import matplotlib.figure
    except ImportError:
        raise RondoError(
            "--output needs matplotlib, which is not installed: pip install 'rondo-tools[plot-file]'",
            exit_code=EX_UNAVAILABLE,
        ) from None
    except (OSError, RuntimeError, ValueError) as exc:  # such as no folder for its font cache
        raise RondoError(f"--output: matplotlib does not start: {exc}", exit_code=EX_UNAVAILABLE) from exc
    return matplotlib


@contextmanager
def _without_settings() -> Iterator[None]:
    """While entered, importing matplotlib finds no matplotlibrc and no backend.

    It looks into the working folder first, so that is changed too.
    """
    settings = {name: os.environ.pop(name, None) for name in ("MATPLOTLIBRC", "MPLBACKEND")}
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    os.environ["MATPLOTLIBRC"] = os.devnull
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
        del os.environ["MATPLOTLIBRC"]
        os.environ.update({name: value for name, value in settings.items() if value is not None})
