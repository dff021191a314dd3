"""`plot`: draws curves in the terminal or into a file."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import argh

from rondo_tools.errors import UsageError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import answer, ask
from rondo_tools.query.manual import SELECTOR

if TYPE_CHECKING:
    from rondo_tools.query.curve import Curve

HELP = f"""\
Draw series in the terminal, each session separately, or into a file. The terminal needs plotext (pip
install 'rondo-tools[plot]'), a file matplotlib (pip install 'rondo-tools[plot-file]').

  rondo-query vmm_metrics plot vcpu_exits_total --rate
  rondo-query vmm_metrics plot vmm_rss_bytes --start 'yesterday 22:00' --end 6:00
  rondo-query vmm_metrics plot blk_request_duration_ns --range 10m --output slow-disk.svg
  rondo-query vmm_metrics plot vcpu_exits_total --rate --sum --by reason
  rondo-query vmm_metrics plot 'vmm_rss_bytes{{instance="vm-1"}}' --session=-2,-1 --since-birth

If there are more than eight curves, it draws the highest, by their averages.

{SELECTOR}
"""


_MOST = 8  # curves of a fleet, by default

log = logging.getLogger(__name__)


@share.together(share.question, share.rate, share.combining)
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

    width, height = flags["width"], flags["height"]
    path = None if flags["output"] is None else Path(flags["output"])
    if path is None:
        terminal = shutil.get_terminal_size()  # honours COLUMNS and LINES; 80 x 24 without a terminal
        if width is None:
            width = min(max(terminal.columns, canvas.MIN_WIDTH), canvas.MAX_SIZE)
        if height is None:
            height = min(max(terminal.lines, canvas.MIN_HEIGHT), canvas.MAX_SIZE)
        canvas.check(width, height)
    else:
        width = picture.WIDTH if width is None else width
        height = picture.HEIGHT if height is None else height
        picture.check(path, width, height)
    most = canvas.MAX_CURVES if path is None else picture.MAX_CURVES
    if (flags["topk"] or 0) > most:
        raise UsageError(f"--topk {flags['topk']}: a plot can distinguish at most {most} curves")
    matches, reader = ask(selector, flags)
    where = share.face(sys.stdout, {**flags, "unix": False, "utc": flags["utc"] or path is not None})
    style: dict[str, Any] = {
        "width": width,
        "height": height,
        "rate": flags["rate"] and not flags["count"],
        "face": where._replace(elapsed=flags["since_birth"]),
    }
    curves = _drawn(answer(matches, reader, flags), flags["topk"])
    if curves and path is None:
        canvas.draw(curves, sys.stdout, color=canvas.wants_color(sys.stdout), **style)
    elif curves and path is not None:
        picture.draw(curves, path, **style)
    reader.finish(matches, found=bool(curves))


def _drawn(curves: Iterable[Curve], topk: int | None) -> list[Curve]:
    """The curves to draw: the highest `topk` ones, by default as many as a plot can show clearly."""
    from rondo_tools.query import plot as canvas
    from rondo_tools.query.group import highest

    some = highest((each for each in curves if canvas.has_values(each)), topk or _MOST)
    if some.left_out:
        log.info(
            "the %d highest of %d curves, by their averages (--topk N draws more, --sum one of all)",
            len(some.curves),
            len(some.curves) + some.left_out,
        )
        return some.curves
    if topk:
        return some.curves
    return [curve for _, curve in sorted(zip(some.places, some.curves, strict=True), key=itemgetter(0))]
