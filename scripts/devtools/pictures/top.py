"""rondo-query top of a made-up host, in a terminal emulator, as SVG. The same each time."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from devtools import ROOT
from devtools.filled_store import Life, fill
from devtools.terminal_host import Emulator, TerminalHost
from rondo_tools.catalog import CPU, SERIES
from rondo_tools.stream import Header

NOW_MS = 1_795_403_100_000  # 2026-11-23T03:05:00Z
# Of all exits by reason, of all requests by operation, of all bytes by direction; 0.05 for others.
SHARES = {"io": 0.2, "mmio": 0.45, "hlt": 0.3, "read": 0.6, "write": 0.35}
WIDTH, HEIGHT, MARGIN = 8.4, 18, 12  # of a cell, and around the screen
PAPER, INK = "#16181d", "#d6d9df"
COLORS = {"default": INK, "red": "#f2777a", "brown": "#e5c07b", "white": "#ffffff"}
PROGRAM = f"""\
import sys
from rondo_tools import clock
clock.now_ms = lambda: {NOW_MS}
from rondo_tools.query.cli import main
sys.exit(main())
"""


def draw(path: Path, columns: int, lines: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "vmm_metrics", lives(), lambda: NOW_MS)
        os.chdir(folder)
        command = [sys.executable, "-c", PROGRAM, "vmm_metrics", "top"]
        env = {"TZ": "UTC", "PYTHONPATH": str(ROOT)}
        with TerminalHost(command, columns, lines, env) as host:
            host.until(lambda text: "q quit" in text)
            path.write_text(svg(host.screen))


def lives(kept_s: int = 400) -> Iterator[Life]:
    """VMs that serve, builds that come and go, one out of control, one silent; `kept_s` seconds of them."""
    rng = np.random.default_rng(3)
    life = partial(a_life, kept_s=kept_s)
    for number in range(1, 19):
        yield life(rng, f"web-{number}", 86_400 * 3 + 977 * number, exits=900 * rng.random() ** 2 + 80)
    for number in range(1, 7):
        yield life(rng, f"db-{number}", 86_400 * 12 + 3600 * number, exits=2400 * rng.random() + 300, disk=8)
    for number, (age_s, ended_s, end) in enumerate(
        ((4, None, None), (9, 3, "poweroff"), (23, None, None), (41, 7, "error"), (48, None, None)), 4711
    ):
        yield life(rng, f"build-{number}", age_s, ended_s=ended_s or 0, end=end, exits=5200, disk=3)
    yield life(rng, "web-19", 5400, exits=14_000, mad_s=22)
    yield life(rng, "queue-1", 86_400 * 2, ended_s=190, exits=300)


def a_life(
    rng: np.random.Generator,
    name: str,
    age_s: int,
    *,
    ended_s: int = 0,
    end: str | None = None,
    exits: float,
    disk: float = 0.4,
    mad_s: int = 0,
    kept_s: int = 400,
) -> Life:
    """A VM that began `age_s` ago, with its last ticks; the very last one was `ended_s` ago."""
    series = SERIES + CPU
    first = max(age_s - 1, 0) if age_s < kept_s else kept_s
    t_ms = NOW_MS - 1000 * np.arange(first, ended_s - 1, -1)
    shape = np.maximum(
        0.05, 1 + 0.25 * np.cumsum(rng.normal(0, 0.35, t_ms.size)) / 3 + rng.normal(0, 0.2, t_ms.size)
    )
    if mad_s:
        shape = 1 + rng.normal(0, 0.1, t_ms.size)
        shape[:-mad_s] *= 0.03
    values = np.zeros((t_ms.size, len(series)))
    for at, one in enumerate(series):
        labels = dict(one.labels)
        share = SHARES.get(labels.get("reason") or labels.get("op") or labels.get("direction", ""), 0.05)
        rate = {
            "vcpu_exits_total": exits * share,
            "blk_requests_total": exits * disk * share / 10,
            "blk_bytes_total": exits * disk * share * 700,
            "vmm_cpu_seconds_total": min(exits / 9000, 1.6),
            "vcpu_cpu_seconds_total": min(exits / 10_000, 1.5),
            "vcpu_wait_seconds_total": exits / 400_000,
        }.get(one.name)
        values[:, at] = np.cumsum(rate * shape) if rate else 0
        if one.name == "vmm_rss_bytes":
            values[:, at] = (96 + 400 * rng.random() + 40 * disk) * 2**20
        elif one.name == "blk_request_duration_ns":
            values[:, at] = 90_000 * (1 + rng.random() * 4)
        elif one.name == "vcpu_exit_duration_ns":
            values[:, at] = 11_000 / np.sqrt(shape)
        elif one.name == "vcpu_run_duration_ns":
            values[:, at] = 240_000_000 / (exits * shape)
    header = Header(name, NOW_MS - 1000 * age_s, (), 1000, series)
    return Life(header, t_ms, values, end)


def svg(screen: Emulator) -> str:
    """The screen as text on a grid; runs of cells with the same look are one element."""
    width, height = screen.columns * WIDTH + 2 * MARGIN, screen.lines * HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">',
        "<title>rondo-query top</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">',
    ]
    for row in range(screen.lines):
        cells = [(column, screen.buffer[row][column]) for column in range(screen.columns)]
        for (fg, bold, reverse), some in groupby(
            cells, key=lambda cell: (cell[1].fg, cell[1].bold, cell[1].reverse)
        ):
            run = list(some)
            text = "".join(cell.data for _, cell in run)
            x, y = MARGIN + run[0][0] * WIDTH, MARGIN + row * HEIGHT
            size = len(run) * WIDTH
            ink = COLORS.get(fg, INK)
            if reverse:
                parts.append(f'<rect x="{x:g}" y="{y:g}" width="{size:g}" height="{HEIGHT}" fill="{ink}"/>')
                ink = PAPER
            if text.strip():
                weight = ' font-weight="bold"' if bold else ""
                parts.append(
                    f'<text x="{x:g}" y="{y + 13.5:g}" textLength="{size:g}" fill="{ink}"{weight}>'
                    f"{escape(text)}</text>"
                )
    return "\n".join([*parts, "</g>", "</svg>", ""])
