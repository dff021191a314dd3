"""rondo-query plot --output: the files have the format of their names, and the right curves."""

from __future__ import annotations

import math
import os
import re
import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from rondo_tools.query import picture
from rondo_tools.query.cli import main
from tests.support.fixtures import Run
from tests.support.query.made_store import T0, Row, add_session

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
    """The paths in a colour within the axes; those of the legend are not clipped."""
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


def test_a_single_point_is_visible(store: Path, tmp_path: Path) -> None:
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
def test_mistakes_are_named(
    store: Path, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, says: str
) -> None:
    add_session(store, rows())
    assert main([str(store), "plot", "{}", *flags]) == status
    assert says in capsys.readouterr().err


SETTINGS = """
backend: nonsense
figure.facecolor: red
axes.prop_cycle: cycler('color', ['k'])
savefig.bbox: tight
savefig.dpi: 7
svg.fonttype: path
text.usetex: True
timezone: Asia/Tokyo
lines.linewidth: 20
no.such.key: 1
"""


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The environment of a separate home, with a cache of fonts that is kept between runs."""
    home, cache = tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp() / "matplotlib-cache"
    return {"HOME": home, "XDG_CONFIG_HOME": home / ".config", "XDG_CACHE_HOME": cache}


def drawn(run: Run, store: Path, env: dict[str, Path | str], cwd: Path, suffix: str = "svg") -> bytes:
    """The file drawn in that environment, without any message."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "MATPLOTLIB"))}
    argv = ["plot", "rss_bytes", f"--output=picture.{suffix}", "--width=400", "--height=200"]
    done = run("rondo-query", store, *argv, cwd=cwd, env=clean | {name: str(env[name]) for name in env})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    data = (cwd / f"picture.{suffix}").read_bytes()
    (cwd / f"picture.{suffix}").unlink()
    return data


@pytest.mark.parametrize("settings", [SETTINGS.encode(), b"\xff\xfe", b"backend: module://nowhere"])
def test_no_settings_are_read(
    store: Path, run: Run, tmp_path: Path, home: dict[str, Path | str], settings: bytes
) -> None:
    """They are in each place, with each way to name one: any that is read would show."""
    add_session(store, rows())
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    expected = drawn(run, store, home, work)
    config = Path(home["XDG_CONFIG_HOME"]) / "matplotlib"
    for folder in (other, config):
        (folder / "stylelib").mkdir(parents=True)
        (folder / "matplotlibrc").write_bytes(settings)
        (folder / "stylelib" / "classic.mplstyle").write_bytes(settings)
    assert drawn(run, store, home | {"MPLBACKEND": "nonsense"}, work) == expected
    file = {"MATPLOTLIBRC": other / "matplotlibrc"}
    assert drawn(run, store, home | file | {"MPLCONFIGDIR": other}, other) == expected
    assert drawn(run, store, home | {"MATPLOTLIBRC": other}, work) == expected


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_home_that_cannot_be_written(store: Path, run: Run, tmp_path: Path, suffix: str) -> None:
    """The cache of fonts cannot be written there: no message, and no file elsewhere."""
    add_session(store, rows(), instance="vm-\u65e5\u672c")  # and no font has its name
    work, temporary, file = tmp_path / "work", tmp_path / "tmp", tmp_path / "file"
    work.mkdir()
    temporary.mkdir()
    file.touch()
    pictures = {
        drawn(run, store, {"HOME": home, "TMPDIR": temporary, "MPLCONFIGDIR": config}, work, suffix)
        for home, config in (("/proc/none", ""), (file, ""), (tmp_path, file))
    }
    assert len(pictures) == 1
    assert not list(temporary.iterdir())


def test_no_place_for_the_cache(store: Path, run: Run, tmp_path: Path) -> None:
    add_session(store, rows())
    (tmp_path / "loop").symlink_to("loop")
    done = run(
        "rondo-query",
        store,
        "plot",
        "rss_bytes",
        "--output=a.svg",
        cwd=tmp_path,
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path / "loop" / "x")},
    )
    assert b"Traceback" not in done.stderr
    assert (done.returncode, done.stderr.count(b"\n")) in (
        (69, 1),
        (0, 0),
    )  # depends on the version of Python


def test_topk_sets_the_number_of_curves(
    store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in range(14):
        add_session(store, rows()[:2], instance=f"vm-{number}")
    output = f"--output={tmp_path / 'a.svg'}"
    assert main([str(store), "plot", "{}", "--topk=41", output]) == 64
    assert "--topk 41: a plot can distinguish at most 40 curves" in capsys.readouterr().err
    for flags, drawn in (["--topk=40"], 40), ([], 8):
        assert main([str(store), "plot", "{}", *flags, output]) == 0
        root = ET.parse(tmp_path / "a.svg").getroot()
        assert len([text for text in texts(root) if "instance=" in text]) == drawn


def test_without_matplotlib_plot_names_the_extra(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_session(store, rows())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(store), "plot", "rss_bytes", f"--output={tmp_path / 'a.svg'}"]) == 69
    assert "pip install 'rondo-tools[plot-file]'" in capsys.readouterr().err
