"""`plot`: curves in the terminal, or in a file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import argh

from rondo_tools.query import flags as share
from rondo_tools.query.ask import ask
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Draw series in the terminal, each session by itself, or into a file. The terminal needs plotext (pip
install 'rondo-tools[plot]'), a file matplotlib (pip install 'rondo-tools[plot-file]').

  rondo-query vmm_metrics plot vcpu_exits_total --rate
  rondo-query vmm_metrics plot vmm_rss_bytes --start 'yesterday 22:00' --end 6:00
  rondo-query vmm_metrics plot blk_request_duration_ns --range 10m --output slow-disk.svg

{SELECTOR}
"""


@share.together(share.question, share.rate)
@argh.arg("--output", metavar="FILE", help="draw into a file instead: NAME.svg or NAME.png")
@argh.arg(
    "--width",
    type=int,
    metavar="N",
    help="columns (default: the terminal's, else 80); with --output pixels (default: 1200)",
)
@argh.arg(
    "--height",
    type=int,
    metavar="N",
    help="lines, with the legend (default: the terminal's, else 24); with --output pixels (default: 600)",
)
@share.utc
def plot(selector: str, **flags: Any) -> None:
    from rondo_tools.query import picture
    from rondo_tools.query import plot as canvas
    from rondo_tools.query.face import face

    width, height = flags["width"], flags["height"]
    path = None if flags["output"] is None else Path(flags["output"])
    if path is None:
        terminal = shutil.get_terminal_size()  # honours COLUMNS and LINES; 80 x 24 where there is none
        if width is None:
            width = min(max(terminal.columns, canvas.MIN_WIDTH), canvas.MAX_SIZE)
        if height is None:
            height = min(max(terminal.lines, canvas.MIN_HEIGHT), canvas.MAX_SIZE)
    else:
        width = picture.WIDTH if width is None else width
        height = picture.HEIGHT if height is None else height
        picture.check(path, width, height)
    matches, reader = ask(selector, flags)
    rate = reader.question.rate
    curves = [each for each in reader.curves(matches) if canvas.has_values(each)]
    if curves and path is None:
        color = canvas.wants_color(sys.stdout)
        where = face(sys.stdout, utc=flags["utc"])
        canvas.draw(curves, sys.stdout, width=width, height=height, color=color, rate=rate, face=where)
    elif curves and path is not None:
        picture.draw(curves, path, width=width, height=height, rate=rate)
    reader.finish(matches, found=bool(curves))
