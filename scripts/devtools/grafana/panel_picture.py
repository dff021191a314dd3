"""Draws a dashboard's panels into one PNG with matplotlib: their place, their lines, their units.

This is not Grafana's own rendering. It follows the JSON in what matters to judge a dashboard: the grid,
titles, legends, units, and gaps in lines without data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

from devtools.grafana.dashboards import Json, Range

WIDTH, CELL_HEIGHT, HEAD = 1680, 36, 64  # pixels
DPI = 100
MARGIN = 5  # around a panel
MOST_LEGENDS = 8  # names beneath a panel; the widest panels have more

PAGE, PANEL, GRID, TEXT, FAINT = "#f4f5f5", "#ffffff", "#e4e7ec", "#24292e", "#6a737d"
COLORS = (
    "#3274d9", "#e0b400", "#56a64b", "#e02f44", "#8f3bb8", "#ff780a", "#1f9e9e", "#b877d9",
    "#7a5c3e", "#5794f2", "#96d98d", "#c4162a",
)  # fmt: skip


class Line(NamedTuple):
    """A series of a panel. Times are Unix seconds, a step apart; an instant query has one."""

    name: str
    t_s: list[float]
    values: list[float]
    step_s: int


def line(series: Json, legend: str, step_s: int) -> Line:
    """The line of a series in an answer; ``{{label}}`` in the legend is filled in, with nothing for a missing
    label."""
    labels = series["metric"]
    name = " ".join(re.sub(r"\{\{(\w+)\}\}", lambda match: str(labels.get(match[1], "")), legend).split())
    points = series["values"] if "values" in series else [series["value"]]
    return Line(name, [float(at) for at, _ in points], [float(value) for _, value in points], step_s)


def draw(dashboard: Json, shown: Range, lines: dict[int, list[Line]], path: Path, note: str) -> None:
    """Draw a dashboard; `lines` are those of each panel by its id. `note` is written below the title."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    height = HEAD + rows * CELL_HEIGHT + MARGIN
    style = {"font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False}
    with rc_context(style):
        figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAGE)

        def place(panel: Json, left: float, right: float, top: float, bottom: float) -> tuple[float, ...]:
            """The inner rectangle of a panel for matplotlib, with margins in pixels."""
            at = panel["gridPos"]
            x, y = at["x"] / 24 * WIDTH + MARGIN, HEAD + at["y"] * CELL_HEIGHT
            w, h = at["w"] / 24 * WIDTH - 2 * MARGIN, at["h"] * CELL_HEIGHT - 2 * MARGIN
            return (
                (x + left) / WIDTH,
                1 - (y + h - bottom) / height,
                (w - left - right) / WIDTH,
                (h - top - bottom) / height,
            )

        figure.text(
            12 / WIDTH, 1 - 24 / height, dashboard["title"], color=TEXT, size=15, weight="bold", va="center"
        )
        figure.text(12 / WIDTH, 1 - 48 / height, note, color=FAINT, va="center")
        for panel in dashboard["panels"]:
            if panel["type"] == "row":
                x, y, _, h = place(panel, 7, 0, 0, 0)
                figure.text(
                    x, y + h / 2, f"▾  {panel['title']}", color=TEXT, size=11, weight="bold", va="center"
                )
                continue
            figure.add_axes(place(panel, 0, 0, 0, 0), facecolor=PANEL, xticks=[], yticks=[]).spines[
                :
            ].set_color(GRID)
            drawn = lines[panel["id"]]
            legends = -(-min(len(drawn), _most(panel) + 1) // _columns(panel))
            left, bottom = (110, 16) if panel["type"] == "bargauge" else (66, 32 + 14 * legends)
            axes = figure.add_axes(place(panel, left, 14, 30, bottom), facecolor="none")
            x, y, _, h = place(panel, 10, 0, 8, 0)
            figure.text(x, y + h, panel["title"], color=TEXT, size=9.5, weight="bold", va="top")
            if panel["type"] == "bargauge":
                _bars(axes, drawn)
            else:
                _curves(axes, panel, drawn, shown)
        with BytesIO() as file:
            figure.savefig(file)
            # A palette of our own makes a third of the size; it has all colors of lines.
            with Image.open(file) as picture, Image.new("P", (1, 1)) as palette:
                palette.putpalette(_palette())
                picture.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE).save(
                    path, optimize=True
                )


def _palette() -> list[int]:
    """Red, green and blue of each color in use, and of its edges and fillings."""
    shades = [
        (color, PANEL, part / 16) for color in (*COLORS, TEXT, FAINT) for part in (1, 2, 4, 6, 8, 11, 14, 16)
    ]
    shades += [(color, PAGE, part / 8) for color in (TEXT, FAINT) for part in range(9)]
    shades += [(PANEL, PANEL, 1), (GRID, PANEL, 1), (GRID, PANEL, 0.5)]
    return [round(255 * part) for color, on, share in shades for part in _mix(color, on, share)]


def _mix(color: str, on: str, share: float) -> list[float]:
    pairs = zip(to_rgb(color), to_rgb(on), strict=True)
    return [share * over + (1 - share) * under for over, under in pairs]


def _columns(panel: Json) -> int:
    width: int = panel["gridPos"]["w"]
    return max(1, width // 2 - 1)


def _most(panel: Json) -> int:
    return max(MOST_LEGENDS, 2 * _columns(panel))


def _curves(axes: Axes, panel: Json, lines: Sequence[Line], shown: Range) -> None:
    """Draw `lines` over the displayed range, with their names below."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    for number, one in enumerate(lines):
        t_s, values = broken(one)
        color = COLORS[number % len(COLORS)]
        t = (t_s * 1000).astype("datetime64[ms]")
        axes.plot(t, values, color=color, linewidth=1.1, label=one.name, **alone(values))
        axes.fill_between(t, values, color=color, alpha=custom["fillOpacity"] / 200, linewidth=0)
    axes.set_xlim(*(np.datetime64(round(at_s * 1000), "ms") for at_s in shown))
    axes.set_ylim(bottom=panel["fieldConfig"]["defaults"].get("min"))
    if axes.get_ylim()[1] < 1 and not any(value for one in lines for value in one.values):
        axes.set_ylim(0, 1)
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC, show_offset=False))
    if panel["fieldConfig"]["defaults"]["unit"] in BINARY:
        axes.yaxis.set_major_locator(
            MultipleLocator(2 ** math.floor(math.log2(max(axes.get_ylim()[1], 4) / 3)))
        )
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[:].set_visible(False)
    axes.tick_params(color=GRID, labelcolor=FAINT, length=0, labelsize=7.5)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > (most := _most(panel)) + 1:
        names = [*names[:most], f"and {len(names) - most} more"]
        handles = [*handles[:most], axes.plot([], [], alpha=0)[0]]
    beneath = -22 / (axes.get_position().height * axes.figure.get_figheight() * DPI)
    axes.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0, beneath), borderaxespad=0, frameon=False,
        labelcolor=TEXT, fontsize=7.5, ncols=_columns(panel), handlelength=1.2, columnspacing=1.2,
        labelspacing=0.25,
    )  # fmt: skip


def _bars(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw one bar for each of `lines`, the first on top, with its value beside it."""
    values = [one.values[-1] for one in lines]
    places = range(len(lines), 0, -1)
    most = max([1.0, *values])
    axes.barh(places, [most * 1.12] * len(lines), color=GRID, alpha=0.5, height=0.62)
    axes.barh(places, values, color=COLORS[0], height=0.62)
    for place, value in zip(places, values, strict=True):
        axes.text(value + most * 0.02, place, f"{value:.0f}", va="center", color=TEXT)
    axes.set_yticks(list(places), [one.name for one in lines], color=TEXT)
    axes.set_xlim(0, most * 1.12)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def broken(one: Line) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Times and values, with a NaN for each missing step."""
    t_s, values = np.array(one.t_s), np.array(one.values)
    gaps = np.flatnonzero(np.diff(t_s) > 1.5 * max(one.step_s, 1)) + 1
    return np.insert(t_s, gaps, t_s[gaps] - one.step_s), np.insert(values, gaps, math.nan)


def alone(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Markers for isolated points, because a line of one point is invisible."""
    there = np.concatenate(([False], np.isfinite(values), [False]))
    places = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])
    return {"marker": ".", "markersize": 4, "markevery": places.tolist()} if places.size else {}


def _scaled(value: float, base: float, names: Sequence[str]) -> str:
    """A value in the largest unit below it; each unit is `base` times the previous one."""
    number = 0
    while abs(value) >= base and number < len(names) - 1:
        value, number = value / base, number + 1
    return f"{value:.3g}{names[number]}"


BINARY = {"bytes", "binBps"}
UNITS: dict[str, Callable[[float], str]] = {
    "short": lambda value: _scaled(value, 1000, ("", " K", " Mil")),
    "cps": lambda value: _scaled(value, 1000, (" c/s", "K c/s", "M c/s")),
    "reqps": lambda value: _scaled(value, 1000, (" req/s", "K req/s", "M req/s")),
    "bytes": lambda value: _scaled(value, 1024, (" B", " KiB", " MiB", " GiB")),
    "binBps": lambda value: _scaled(value, 1024, (" B/s", " KiB/s", " MiB/s", " GiB/s")),
    "ns": lambda value: _scaled(value, 1000, (" ns", " µs", " ms", " s")),
    "s": lambda value: f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min",
    "percentunit": lambda value: f"{value * 100:.3g} %",
}
