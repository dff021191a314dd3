"""`top`: shows what each VM does now, or did over a range."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import argh

from rondo_tools import clock, command
from rondo_tools.errors import RondoError, UsageError
from rondo_tools.printable import encodable, printable
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store
from rondo_tools.query.manual import SELECTOR
from rondo_tools.selector import Selector
from rondo_tools.signals import Signals
from rondo_tools.units import parse_duration

if TYPE_CHECKING:
    from rondo_tools.query.top.columns import Look
    from rondo_tools.query.top.screen import Frame, Screen
    from rondo_tools.query.top.terminal import Terminal
    from rondo_tools.store.reader import Store
    from rondo_tools.view.fleet import Fleet, View

HELP = f"""\
Show what each VM does: a table that is updated every second, or once with --once or without a terminal.

  rondo-query vmm_metrics top
  rondo-query vmm_metrics top '{{tenant="a"}}' --sort rss
  rondo-query vmm_metrics top --once --range 5m -n 1       # which VM burnt most in the last five minutes?
  rondo-query vmm_metrics top --by reason
  rondo-query vmm_metrics top --once --format csv > now.csv

Columns, if they fit and any VM has them: state and age; exits, disk requests and bytes, CPU time (100% is
one CPU), steal (time that vCPUs waited for a CPU) and network bytes, each per second; the mean time of a
disk request and the memory of the VMM's process; and the exits of the last minute as a line. With --range
the columns are sums over the range, or means for times and memory, and VMs that ended in it are shown too.

Keys: < > (or the arrows) choose the column to sort by, r reverses, / filters by name or state, p pauses,
c chooses columns, h shows help, q quits.

{SELECTOR}"""

_EVERY_S = 1.0
_REST = 4  # times the duration of a look
_LONGEST_MS = 7 * 86_400_000
_MOST_KEPT = 100  # messages, while the screen is taken over
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)

log = logging.getLogger(__name__)


def _range(text: str) -> int:
    ms = parse_duration(text)
    if ms > _LONGEST_MS:
        raise UsageError(f"{text!r} is longer than 7d")
    return ms


@argh.arg(
    "selector", nargs="?", metavar="SELECTOR", default="{}", help="which VMs and series (default: {}, all)"
)
@argh.arg(
    "--range", type=command.typed(_range), metavar="DURATION", help="sums over the last 5m, 1h, ... up to 7d"
)
@argh.arg("--by", metavar="LABEL", help="a row for each value of a label: instance, reason, one of your own")
@argh.arg(
    "--sort",
    metavar="COLUMN",
    default="exits",
    help="exits, requests, bytes, latency, cpu, steal, net, rss, age, state, name",
)
@argh.arg("--reverse", action="store_true", default=False, help="the smallest first")
@argh.arg("-n", type=command.typed(share.count), metavar="N", help="only the first N")
@argh.arg("--once", action="store_true", default=False, help="print the table and exit")
@argh.arg(
    "--format", choices=("table", "csv", "json"), default="table", help="of --once; json: one object a line"
)
def top(selector: str, **flags: Any) -> None:
    from rondo_tools.query import evicted
    from rondo_tools.query.damage import Damage
    from rondo_tools.query.times import Span
    from rondo_tools.query.top import rows, terminal
    from rondo_tools.query.top.screen import Screen
    from rondo_tools.view.fleet import MINUTE_MS, Fleet

    order = rows.parse_order(flags["sort"], reverse=flags["reverse"])
    is_once = flags["once"] or flags["format"] != "table" or not terminal.is_usable(dict(os.environ))
    store, wanted = open_store(flags["store"], selector)
    fleet = Fleet(store, wanted, range_ms=flags["range"] or MINUTE_MS, label=flags["by"])
    look = _look(flags["range"], flags["by"])
    screen = Screen(order, look, flags["store"], flags["n"])
    view = fleet.look(clock.now_ms())
    if flags["range"] is not None:
        evicted.warn(store, Span(view.now_ms - flags["range"], None), range(len(store.tiers)))
    if flags["by"] is not None:
        rows.must_have(view, flags["by"])
    if is_once:
        if not view.vms:
            find(store, wanted)  # raises, with the reason
        _once(view, screen, flags["format"], wanted)
    else:
        shown = terminal.Terminal(sys.stdin.fileno(), sys.stdout.fileno(), sys.stdout.encoding)
        with _messages_kept(screen), Signals(_SIGNALS) as signals, shown:
            if not view.vms:
                _log_why_none(store, wanted)
            _run(fleet, view, screen, shown, signals)
    Damage(store).finish()


def _log_why_none(store: Store, wanted: Selector) -> None:
    """VMs may still appear, unless the selector has a misspelt word."""
    try:
        find(store, wanted)
    except RondoError as exc:
        log.info("%s", exc)


def _look(range_ms: int | None, by: str | None) -> Look:
    from rondo_tools.query.top.columns import Look
    from rondo_tools.view.cells import BLOCKS

    encoding = sys.stdout.encoding
    can_draw = encodable(f"{BLOCKS}µ", encoding) == f"{BLOCKS}µ"
    return Look(can_draw, not os.environ.get("NO_COLOR"), range_ms, by, encoding)


def _frame(view: View, screen: Screen) -> Frame:
    from rondo_tools.query.top import rows
    from rondo_tools.query.top.screen import Frame

    is_range, by = screen.look.range_ms is not None, screen.look.by
    found = rows.rows_of(view, is_range=is_range) if by is None else rows.grouped(view, by, is_range=is_range)
    return Frame(found, rows.summary(view, is_range=is_range), view.now_ms)


def _once(view: View, screen: Screen, format: str, wanted: Selector) -> None:
    from rondo_tools.query.damage import EX_NOTHING
    from rondo_tools.query.output import write_columns
    from rondo_tools.query.top.rows import fields

    frame = _frame(view, screen)
    if not frame.rows.names:
        raise RondoError(f"no VM that matches {wanted} is there", exit_code=EX_NOTHING)
    for line in screen.summary(frame):
        log.info("%s", line)
    if format == "table":
        for line in screen.table(frame.rows):
            print(line)
    else:
        write_columns(
            sys.stdout,
            format,
            fields(
                frame.rows, screen.chosen(frame.rows), by=screen.look.by, is_range=bool(screen.look.range_ms)
            ),
        )


def _run(fleet: Fleet, view: View, screen: Screen, shown: Terminal, signals: Signals) -> None:
    """Run until a key or a signal ends it, or the terminal is gone."""
    frame, due_s = _frame(view, screen), time.monotonic() + _EVERY_S
    try:
        while not screen.is_over:
            size = shown.size()
            shown.draw(screen.lines(frame, *size), size)
            left_s = max(0.0, due_s - time.monotonic())
            ready = select.select([shown.keys, signals.fileno()], [], [], left_s)[0]
            for number in signals.take():
                if number in (signal.SIGINT, signal.SIGTERM):
                    return
                if number == signal.SIGTSTP:
                    shown.stop()
                elif number == signal.SIGCONT:
                    shown.take_over_again()
            if shown.keys in ready:
                for key in shown.read():
                    screen.message = ""
                    screen.press(key)
            began_s = time.monotonic()
            if began_s >= due_s:
                if not screen.is_paused:
                    frame = _frame(fleet.look(clock.now_ms()), screen)
                now_s = time.monotonic()
                due_s = max(due_s + _EVERY_S, now_s + _REST * (now_s - began_s))
    except EOFError:
        return
    except OSError as exc:
        if exc.errno != errno.EIO:  # the terminal was closed
            raise


@contextmanager
def _messages_kept(screen: Screen) -> Iterator[None]:
    """While entered, the screen shows the last message; afterwards all messages go to the usual handlers."""
    kept: deque[logging.LogRecord] = deque(maxlen=_MOST_KEPT)
    root = logging.getLogger()
    handlers = root.handlers
    root.handlers = [_Keeping(kept, screen)]
    try:
        yield
    finally:
        root.handlers = handlers
        for record in kept:
            root.handle(record)


class _Keeping(logging.Handler):
    def __init__(self, kept: deque[logging.LogRecord], screen: Screen) -> None:
        super().__init__()
        self._kept, self._screen = kept, screen

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record)
        self._screen.message = printable(record.getMessage())
