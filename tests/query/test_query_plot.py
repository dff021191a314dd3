"""rondo-query plot: the canvas, read back from its characters."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest

from rondo_tools.query.cli import main
from rondo_tools.query.plot import MAX_CURVES
from tests.support.query.made_store import T0, add_session

Rows = list[tuple[int, tuple[float, ...]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plotext() -> None:
    pytest.importorskip("plotext")


def ramp(seconds: int, begin: int = T0) -> Rows:
    return [(begin + 1000 * i, (20.0 * i, 0.0, 1e6 * i)) for i in range(seconds + 1)]


def canvas(picture: str) -> list[str]:
    """The lines inside the frame, top first."""
    return [
        line.split("┤" if "┤" in line else "│", 1)[1][:-1]
        for line in picture.splitlines()
        if line.endswith("│")
    ]


def test_a_ramp_goes_from_corner_to_corner(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, ramp(30))
    assert main([str(store), "plot", "rss_bytes", "--width=60", "--height=20"]) == 0
    picture = capsys.readouterr().out
    lines = picture.splitlines()
    assert "\x1b" not in picture
    assert len(lines) == 19  # the last line of the terminal is left for the prompt
    assert max(map(len, lines)) == 60
    inside = canvas(picture)
    assert inside[0].rstrip().endswith("a")
    assert inside[-1].startswith("a")
    leftmost = [line.index("a") for line in inside]
    assert leftmost == sorted(leftmost, reverse=True)
    assert [line.split("┤")[0].strip() for line in lines if "┤" in line] == ["30M", "20M", "10M", "0"]
    assert "00:50:10" in picture
    assert "2026-11-23 UTC" in picture
    assert "bytes" in lines[-2]
    assert lines[-1] == 'aa rss_bytes{instance="vm-1"}'


def test_a_rate_is_flat_and_sessions_are_apart(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, ramp(10), end="reset")
    add_session(store, ramp(10, T0 + 20_000), start_ms=T0 + 20_000)
    selector = 'exits_total{reason="io"}'
    assert main([str(store), "plot", selector, "--rate", "--width=80", "--height=20"]) == 0
    picture = capsys.readouterr().out
    drawn = "".join(line for line in canvas(picture) if line.strip())
    left, gap, right = drawn[:25], drawn[30:50], drawn[52:]
    assert set(left.strip()) == {"a"}
    assert not gap.strip()
    assert set(right.strip()) == {"b"}
    assert "20┤" in picture
    assert "exits per second" in picture
    legend = picture.splitlines()[-2:]
    assert [line.rsplit(" ", 1)[1] for line in legend] == [
        "2026-11-23T00:50:00.000Z",
        "2026-11-23T00:50:20.000Z",
    ]


def test_a_line_breaks_where_values_are_missing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in ramp(39) if not 10 < (row[0] - T0) / 1000 < 16]  # no tick
    rows = [
        (t_ms, (0.0, 0.0, math.nan if 25 < (t_ms - T0) / 1000 < 33 else 5.0)) for t_ms, _ in rows
    ]  # no value
    add_session(store, rows)
    assert main([str(store), "plot", "rss_bytes", "--width=80", "--height=12"]) == 0
    drawn = next(line for line in canvas(capsys.readouterr().out) if "a" in line)
    assert len(drawn.split()) == 3


@pytest.mark.parametrize(
    "values",
    [(5.0,), (5.0, 5.0), (1e-9, 2e-9), (-1e18, 1e18), (math.inf, 1.0), (-1.7e308, 1.7e308), (5e-324, 3e-323)],
)
def test_odd_ranges_are_drawn(
    store: Path, capsys: pytest.CaptureFixture[str], values: tuple[float, ...]
) -> None:
    add_session(store, [(T0 + 1000 * i, (0.0, 0.0, value)) for i, value in enumerate(values)])
    assert main([str(store), "plot", "rss_bytes"]) == 0
    assert any("a" in line for line in canvas(capsys.readouterr().out))


def test_a_plot_without_values_exits_with_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, [(T0, (1.0, 1.0, math.nan))])
    assert main([str(store), "plot", "rss_bytes"]) == 1
    assert "no values" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "colored"), [(None, True), ("NO_COLOR", False)])
def test_color_is_for_terminals(
    store: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, colored: bool
) -> None:
    add_session(store, ramp(30))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    assert main([str(store), "plot", "{}"]) == 0
    assert ("\x1b[38" in terminal.getvalue()) is colored


def test_without_plotext_plot_names_the_extra(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_session(store, ramp(3))
    monkeypatch.setitem(sys.modules, "plotext", None)
    assert main([str(store), "plot", "rss_bytes"]) == 69
    assert "pip install 'rondo-tools[plot]'" in capsys.readouterr().err


def test_too_small_a_plot_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, ramp(3))
    assert main([str(store), "plot", "{}", "--height=3"]) == 64
    assert "--height" in capsys.readouterr().err


def test_as_many_curves_as_a_plot_can_distinguish(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(18):
        add_session(store, ramp(3), instance=f"vm-{number}")
    assert main([str(store), "plot", "{}", f"--topk={MAX_CURVES}", "--height=80"]) == 0
    assert capsys.readouterr().out.count("instance=") == MAX_CURVES == 52
    assert main([str(store), "plot", "{}", "--topk=53"]) == 64
    assert "--topk 53: a plot can distinguish at most 52 curves" in capsys.readouterr().err
