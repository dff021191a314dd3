"""`tail`: prints ticks as they arrive."""

from __future__ import annotations

import logging
import select
import sys
import time
from typing import Any

import argh

from rondo_tools import clock, command
from rondo_tools.errors import RondoError, UsageError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store
from rondo_tools.query.manual import SELECTOR
from rondo_tools.signals import Signals

HELP = f"""\
Follow running sessions: a line for each tick as it arrives, with the time, the instance and the values of
the series; a line of names comes first, and again when the series change.

  rondo-query vmm_metrics tail '{{instance="vm-1",__name__=~"vmm_.+"}}'
  rondo-query vmm_metrics tail vcpu_exits_total --rate --new
  rondo-query vmm_metrics tail '{{instance="vm-1"}}' --once    # the last ten ticks of one that is gone
  rondo-query vmm_metrics tail vmm_rss_bytes --lines 0 | awk '$3+0 > 64e6'

On a terminal the table keeps its columns; it has only as many as fit, and only as many VMs as the screen has
lines. A message names what is left out. --wide and --format print everything, as in a pipe.

It ends when every followed session has ended, is lost or silent, with a message for each on standard error;
a session that comes back before is followed again. With --new it runs until Ctrl-C.

{SELECTOR}
"""

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2  # so soon after it is stored, a tick is shown
_REST = 4  # times the duration of a look: a tail of a thousand VMs leaves most of a processor to them


@share.selector
@argh.arg(
    "--lines",
    type=command.typed(share.count),
    metavar="N",
    default=10,
    help="past ticks to begin with, for each session",
)
@argh.arg("--new", action="store_true", default=False, help="also follow sessions that begin later")
@argh.arg(
    "--once",
    action="store_true",
    default=False,
    help="print the last ticks of each instance's newest session, running or ended, and exit",
)
@share.rate
@argh.arg(
    "--format",
    choices=("table", "json"),
    help="json: one object a line (default: a table; on a terminal one that fits it)",
)
@share.wide
@share.times
def tail(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve
    from rondo_tools.query.damage import EX_NOTHING
    from rondo_tools.query.face import face
    from rondo_tools.query.output import LineWriter
    from rondo_tools.query.page import page
    from rondo_tools.query.tail import Tail
    from rondo_tools.query.tail_table import TailTable

    if flags["new"] and flags["once"]:
        raise UsageError("--new waits for later sessions, and --once does not wait: choose one")
    store, wanted = open_store(flags["store"], selector)
    try:
        curve.check(curve.Question(rate=flags["rate"]), find(store, wanted), store.tiers)
    except RondoError as exc:
        if not flags["new"] or isinstance(exc, UsageError):
            raise
        log.info("%s; waiting for it", exc)
    log_face = face(sys.stderr, utc=flags["utc"])
    following = Tail(store, wanted, lines=flags["lines"], rate=flags["rate"], new=flags["new"], face=log_face)
    shown, times = page(sys.stdout, flags), share.face(sys.stdout, flags)
    writer: LineWriter | TailTable = (
        LineWriter(sys.stdout, flags["format"] or "table", times)
        if shown is None
        else TailTable(sys.stdout, shown, times, clock.now_ms(), rate=flags["rate"])
    )
    if flags["once"]:
        writer.write(following.last(match.session for match in find(store, wanted)))
        following.damage.finish()
        return
    with Signals() as signals:
        lines = following.look(clock.now_ms())
        took_s = 0.0
        if following.is_over and not lines:
            following.damage.finish()
            raise RondoError(
                f"nothing that matches {wanted} is running (--new waits for later sessions)",
                exit_code=EX_NOTHING,
            )
        while True:
            writer.write(lines)
            sys.stdout.flush()
            if following.is_over or _is_stopped(signals, max(_LOOK_EVERY_S, _REST * took_s)):
                following.damage.finish()
                return
            began_s = time.monotonic()
            lines = following.look(clock.now_ms())
            took_s = time.monotonic() - began_s


def _is_stopped(signals: Signals, seconds: float) -> bool:
    """Wait for a signal, `seconds` at most; returns whether one arrived. Raises BrokenPipeError if our reader
    is gone."""
    poll = select.poll()
    poll.register(signals.fileno(), select.POLLIN)
    poll.register(sys.stdout.fileno(), 0)  # errors only
    ready = dict(poll.poll(seconds * 1000))
    if ready.get(sys.stdout.fileno(), 0) & select.POLLERR:
        raise BrokenPipeError
    return signals.fileno() in ready
