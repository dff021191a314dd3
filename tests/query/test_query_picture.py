"""rondo-query plot --output: the files are what their names say, and hold what was asked for."""

from __future__ import annotations

import math
import re
import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from made_store import T0, Row, add_session

from rondo_tools.query import picture
from rondo_tools.query.cli import main

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib")


def rows() -> list[Row]:
    """A ramp from corner to corner, broken once."""
    return [(T0 + 1000 * i, (20.0 * i, 5.0, 1e6 * i)) for i in range(31) if not 10 < i < 16]


def texts(root: ET.Element) -> list[str]:
    return ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


def curve_paths(root: ET.Element, color: str) -> list[str]:
    """What is drawn in a colour within the axes: the legend's samples are not clipped."""
    return [
        path.get("d", "")
        for path in root.iter(f"{SVG}path")
        if path.get("clip-path") and color in path.get("style", "")
    ]


def test_an_svg_shows_the_curve(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, rows(), instance="a $x$ b", end="reset")
    file = tmp_path / "rss.svg"
    argv = [str(store), "plot", "rss_bytes", f"--output={file}", "--width=800", "--height=400"]
    assert main(argv) == 0
    assert capsys.readouterr().out == ""
    data = file.read_bytes()
    root = ET.fromstring(data)
    shown = texts(root)
    assert r'rss_bytes{instance="a\x20$x$\x20b"}' in shown  # and not as a formula
    assert {"bytes", "UTC", "30M"} <= set(shown)
    assert (root.get("width"), root.get("height")) == ("576pt", "288pt")  # 72 points are 100 pixels
    (line,) = curve_paths(root, "#1f77b4")
    points = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", line)]
    assert line.count("M") == 2  # broken where ticks are missing
    assert [points[0][0], points[-1][0]] == [min(x for x, _ in points), max(x for x, _ in points)]
    assert [points[0][1], points[-1][1]] == [max(y for _, y in points), min(y for _, y in points)]
    assert main(argv) == 0
    assert file.read_bytes() == data


def test_a_png_has_its_size(store: Path, tmp_path: Path) -> None:
    add_session(store, rows())
    file = tmp_path / "all.PNG"
    assert main([str(store), "plot", "exits_total", "--rate", f"--output={file}"]) == 0
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (picture.WIDTH, picture.HEIGHT)


def test_a_point_alone_is_seen(store: Path, tmp_path: Path) -> None:
    add_session(store, [(T0 + 1000 * i, (0.0, 0.0, math.nan if i != 2 else 7.0)) for i in range(5)])
    file = tmp_path / "one.svg"
    assert main([str(store), "plot", "rss_bytes", f"--output={file}"]) == 0
    root = ET.parse(file).getroot()
    clipped = [group for group in root.iter(f"{SVG}g") if group.get("clip-path")]
    assert any(list(group.iter(f"{SVG}use")) for group in clipped)


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (["--output=a.pdf"], 64, "--output a.pdf: the name must end in .svg or .png"),
        (["--output=a.svg", "--width=10"], 64, "--width"),
        (["--output=no/such/folder/a.svg"], 69, "--output no/such/folder/a.svg: No such file"),
    ],
)
def test_what_is_wrong_is_said(
    store: Path, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, says: str
) -> None:
    add_session(store, rows())
    assert main([str(store), "plot", "{}", *flags]) == status
    assert says in capsys.readouterr().err


def test_too_many_curves_are_refused(store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in range(14):
        add_session(store, rows()[:2], instance=f"vm-{number}")
    assert main([str(store), "plot", "{}", f"--output={tmp_path / 'a.svg'}"]) == 64
    assert "42 curves match" in capsys.readouterr().err
    assert main([str(store), "plot", "exits_total", f"--output={tmp_path / 'a.svg'}"]) == 0
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert len([text for text in texts(root) if text.startswith("exits_total")]) == 28


def test_without_matplotlib_it_says_what_to_install(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_session(store, rows())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(store), "plot", "rss_bytes", f"--output={tmp_path / 'a.svg'}"]) == 69
    assert "pip install 'rondo-tools[plot-file]'" in capsys.readouterr().err
