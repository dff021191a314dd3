"""The dashboards' pictures: every panel drawn from answers of a real Prometheus."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.grafana.dashboard_picture import NOTE, answers
from devtools.grafana.dashboards import ALL, DASHBOARDS, Json, load, panels
from devtools.grafana.panel_picture import UNITS, Line, alone, broken, draw
from tests.support.deploy.lives import Filled


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def inked(picture: np.ndarray, dashboard: Json) -> dict[str, bool]:
    """Whether each panel has colors, by title; text and grid are grey."""
    height, width, _ = picture.shape
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    cell = (height - 69) / rows
    found = {}
    for panel in panels(dashboard):
        at = panel["gridPos"]
        part = picture[
            int(64 + at["y"] * cell) : int(64 + (at["y"] + at["h"]) * cell),
            int(at["x"] / 24 * width) : int((at["x"] + at["w"]) / 24 * width),
        ].astype(int)
        found[panel["title"]] = bool((np.ptp(part, axis=2) > 60).any())
    return found


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_is_drawn(path: Path, filled: Filled, tmp_path: Path) -> None:
    dashboard = load(path)
    lines = answers(filled.url, dashboard, filled.shown, ALL)
    draw(dashboard, filled.shown, lines, tmp_path / "picture.png", NOTE)
    assert all(inked(pixels(tmp_path / "picture.png"), dashboard).values())
    empty: dict[int, list[Line]] = {panel["id"]: [] for panel in panels(dashboard)}
    draw(dashboard, filled.shown, empty, tmp_path / "empty.png", NOTE)
    assert not any(inked(pixels(tmp_path / "empty.png"), dashboard).values())


def test_lines_break_where_steps_are_missing() -> None:
    t_s, values = broken(Line("x", [1, 2, 5, 6, 9], [1.0, 2.0, 3.0, 4.0, 5.0], 1))
    assert t_s.tolist() == [1, 2, 4, 5, 6, 8, 9]
    assert [None if math.isnan(value) else value for value in values] == [1, 2, None, 3, 4, None, 5]
    assert alone(values)["markevery"] == [6]


def test_units_are_those_of_the_panels() -> None:
    used = {panel["fieldConfig"]["defaults"]["unit"] for path in DASHBOARDS for panel in panels(load(path))}
    assert used <= set(UNITS)
    assert UNITS["bytes"](18 * 1024**2) == "18 MiB"
    assert UNITS["ns"](23_400) == "23.4 µs"
    assert UNITS["cps"](12_000) == "12K c/s"
    assert UNITS["s"](45) == "45 s"
    assert UNITS["percentunit"](1.25) == "125 %"
    assert UNITS["short"](0) == "0"
