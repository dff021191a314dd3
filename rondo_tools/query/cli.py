"""The command line of rondo-query: which sessions there are, their samples as text, their curves.

numpy and the store's reader are imported where they are needed, so that --help is quick.
"""

from __future__ import annotations

import gc
import logging
import re
import select
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import argh

from rondo_tools import __version__, command
from rondo_tools.errors import EX_USAGE, RondoError, UsageError
from rondo_tools.query import flags as share
from rondo_tools.query import manual
from rondo_tools.selector import Selector, parse_selector
from rondo_tools.signals import Signals

if TYPE_CHECKING:
    from rondo_tools.query.curve import CurveReader, Match
    from rondo_tools.store.reader import Store

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2  # of tail: a tick is shown so soon after it was stored
_REST = 4  # times as long as a look took: a tail of a thousand VMs leaves most of a processor to them


@argh.arg(
    "--match", metavar="SELECTOR", help="only sessions with a series that it means: '{instance=~\"vm-.*\"}'"
)
@argh.arg(
    "--since",
    metavar="DURATION|TIME",
    help="only those that were alive since then: 10m, 2026-11-23T10:00:00Z, Unix seconds",
)
@argh.arg(
    "--state",
    type=command.typed(share.states),
    metavar="STATE[,...]",
    help="only those that are running or silent, or ended so: poweroff, lost, ...",
)
@argh.arg("-n", type=command.typed(share.count), metavar="N", help="only the N newest of these")
@argh.arg("--sort", metavar="FIELD", default="session", help="order by a field of the list")
@argh.arg("--reverse", action="store_true", default=False, help="from the largest down")
@share.format
def list_sessions(**flags: Any) -> None:
    gc.disable()  # of 100,000 sessions none is garbage, and to look for it takes as long as all the rest
    from rondo_tools.query import evicted, life, output
    from rondo_tools.query.damage import EX_NOTHING, Damage
    from rondo_tools.query.times import Span, format_time, parse_since
    from rondo_tools.store.reader import Store

    wanted = None if flags["match"] is None else parse_selector(flags["match"])
    now_ms = _now_ms()
    since_ms = 0 if flags["since"] is None else parse_since(flags["since"], now_ms)
    store = Store(flags["store"])
    order = life.Order(flags["sort"], reverse=flags["reverse"])
    if wanted is None:
        sessions = list(store.each_session(since_ms=since_ms))
    else:
        sessions = [match.session for match in _find(store, wanted, since_ms)]
    what = ["no session"]
    if since_ms:
        sessions = life.alive_since(sessions, since_ms, now_ms)
        what.append(f"that was alive since {format_time(since_ms)}")
    if flags["state"] is not None:
        sessions = life.in_state(sessions, flags["state"], now_ms)
        what.append(f"that is {' or '.join(sorted(flags['state']))}")
    damage = Damage(store)
    evicted.warn(store, Span(since_ms or None, None), range(len(store.tiers)))
    if not sessions and len(what) > 1:
        damage.finish()
        raise RondoError(" ".join(what), exit_code=EX_NOTHING)
    sessions = life.newest(sessions, flags["n"])
    columns = order.sorted(life.lives(sessions, now_ms, unix=flags["unix"]))
    output.write_columns(sys.stdout, flags["format"], columns)
    damage.finish()


@share.together(share.question, share.rate, share.format)
def read(selector: str, **flags: Any) -> None:
    from rondo_tools.query import output

    matches, reader = _ask(selector, flags)
    writer = output.SampleWriter(sys.stdout, flags["format"], unix=flags["unix"], matches=matches)
    for each in reader.curves(matches):
        writer.write(each)
    reader.finish(matches, found=writer.samples > 0)


@share.question
@argh.arg(
    "--format",
    choices=("csv", "jsonl", "openmetrics"),
    required=True,
    help="csv and jsonl: the records of `read`; openmetrics: text with timestamps",
)
@argh.arg(
    "--label",
    metavar="NAME=VALUE",
    action="append",
    type=command.typed(share.label),
    default=[],
    help="add a label to all series, such as job=rondo-vmm; may be repeated",
)
@share.unix
def export(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve, openmetrics, output

    matches, reader = _ask(selector, {**flags, "rate": False})
    matches = curve.with_labels(matches, flags["label"])
    if flags["format"] == "openmetrics":
        samples = openmetrics.write(sys.stdout, matches, reader)
    else:
        format = {"jsonl": "json"}.get(flags["format"], flags["format"])
        writer = output.SampleWriter(sys.stdout, format, unix=flags["unix"], matches=matches)
        for each in reader.curves(matches):
            writer.write(each)
        samples = writer.samples
    reader.finish(matches, found=samples > 0)


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
def plot(selector: str, **flags: Any) -> None:
    from rondo_tools.query import picture
    from rondo_tools.query import plot as canvas

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
    matches, reader = _ask(selector, flags)
    rate = reader.question.rate
    curves = [each for each in reader.curves(matches) if canvas.has_values(each)]
    if curves and path is None:
        color = canvas.wants_color(sys.stdout)
        canvas.draw(curves, sys.stdout, width=width, height=height, color=color, rate=rate)
    elif curves and path is not None:
        picture.draw(curves, path, width=width, height=height, rate=rate)
    reader.finish(matches, found=bool(curves))


@share.selector
@argh.arg(
    "--lines",
    type=command.typed(share.count),
    metavar="N",
    default=10,
    help="ticks of the past to begin with, for each session",
)
@argh.arg("--new", action="store_true", default=False, help="follow sessions that begin later, too")
@share.rate
@argh.arg("--format", choices=("table", "json"), default="table", help="json: one object a line")
@share.unix
def tail(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve
    from rondo_tools.query.damage import EX_NOTHING
    from rondo_tools.query.output import LineWriter
    from rondo_tools.query.tail import Tail
    from rondo_tools.store.reader import Store

    wanted = parse_selector(selector)
    store = Store(flags["store"])
    if flags["rate"] or not flags["new"]:
        curve.check(curve.Question(rate=flags["rate"]), _find(store, wanted), store.tiers)
    following = Tail(store, wanted, lines=flags["lines"], rate=flags["rate"], new=flags["new"])
    writer = LineWriter(sys.stdout, flags["format"], unix=flags["unix"])
    with Signals() as signals:
        lines = following.look(_now_ms())
        took_s = 0.0
        if following.is_over and not lines:
            following.damage.finish()
            raise RondoError(
                f"nothing that matches {wanted} is running (--new waits for what begins later)",
                exit_code=EX_NOTHING,
            )
        while True:
            for line in lines:
                writer.write(line)
            sys.stdout.flush()
            if following.is_over or _is_told_to_end(signals, max(_LOOK_EVERY_S, _REST * took_s)):
                following.damage.finish()
                return
            began_s = time.monotonic()
            lines = following.look(_now_ms())
            took_s = time.monotonic() - began_s


def check(**flags: Any) -> None:
    from rondo_tools.errors import StoreError
    from rondo_tools.query.check import Checker
    from rondo_tools.store.reader import Store

    checker = Checker(Store(flags["store"]))
    for line in checker.lines():
        print(line)
    if not checker.is_good:
        raise StoreError(str(checker))
    log.info("%s", checker)


@argh.arg(
    "selector",
    nargs="?",
    metavar="SELECTOR",
    default="{}",
    help="which sessions: those with a series that it means",
)
def stream(selector: str, **flags: Any) -> None:
    from rondo_tools.query import replay
    from rondo_tools.query.damage import Damage
    from rondo_tools.store.reader import Store

    wanted = parse_selector(selector)
    if sys.stdout.isatty():
        raise UsageError("a stream is no text for a terminal: write it to a file or a pipe")
    store = Store(flags["store"])
    sessions = [match.session for match in _find(store, wanted)]
    damage = Damage(store)
    for message in replay.messages(sessions, damage):
        sys.stdout.buffer.write(message)
    sys.stdout.buffer.flush()
    damage.finish()


@argh.arg(
    "selector",
    nargs="?",
    metavar="SELECTOR",
    default="{}",
    help="which sessions: those with a series that it means; then the dump has no cursors",
)
def dump(selector: str, **flags: Any) -> None:
    from rondo_tools.query.damage import Damage
    from rondo_tools.store.reader import Store

    wanted = parse_selector(selector)
    if sys.stdout.isatty():
        raise UsageError("a dump is no text for a terminal: write it to a file or a pipe")
    store = Store(flags["store"])
    keys = None
    if wanted.matchers:
        keys = {(match.session.instance, match.session.start_ms) for match in _find(store, wanted)}
    store.dump(sys.stdout.buffer.write, keys)
    sys.stdout.buffer.flush()
    Damage(store).finish()


def _is_told_to_end(signals: Signals, seconds: float) -> bool:
    """Wait so long, or until a signal arrives. Raises BrokenPipeError when our reader leaves."""
    poll = select.poll()
    poll.register(signals.fileno(), select.POLLIN)
    poll.register(sys.stdout.fileno(), 0)  # errors only
    ready = dict(poll.poll(seconds * 1000))
    if ready.get(sys.stdout.fileno(), 0) & select.POLLERR:
        raise BrokenPipeError
    return signals.fileno() in ready


def _find(store: Store, selector: Selector, since_ms: int = 0) -> list[Match]:
    """What a selector means, of the sessions with a tick since then or without an end.

    Raises RondoError if that is nothing, StoreError if not all could be read.
    """
    from rondo_tools.query import curve
    from rondo_tools.query.damage import Damage

    named = [one.value for one in selector.matchers if (one.label, one.operator) == ("instance", "=")]
    some = store.sessions(instance=named[0] if named else None, since_ms=since_ms)
    found = curve.find_in(some, selector)
    if found:
        return found
    try:
        return curve.find(store.sessions(), selector)
    except RondoError as exc:
        if store.unread:
            log.warning("%s", exc)
        Damage(store).finish()
        raise


def _ask(selector: str, flags: dict[str, Any]) -> tuple[list[Match], CurveReader]:
    """Open the store and find what is asked for. Raises RondoError before anything is printed."""
    from rondo_tools.query import curve
    from rondo_tools.query.damage import Damage
    from rondo_tools.query.times import make_span
    from rondo_tools.store.reader import Store

    wanted = parse_selector(selector)
    span = make_span(flags["range"], flags["start"], flags["end"], _now_ms())
    is_plain = flags["tier"] is None and span.start_ms is None
    tier_text = flags["tier"] or ("0" if span.start_ms is None else "auto")
    if not re.fullmatch(r"auto|[0-9]", tier_text):
        raise UsageError(f"--tier {tier_text!r}: write auto, or the number of a tier")
    tier = None if tier_text == "auto" else int(tier_text)
    question = curve.Question(span, tier, flags["aggregate"], flags["rate"], is_plain)
    store = Store(flags["store"])
    matches = _find(store, wanted, span.start_ms or 0)
    curve.check(question, matches, store.tiers)
    return matches, curve.CurveReader(question, store, Damage(store))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


COMMANDS = (
    ("list", list_sessions, "which sessions there are, and how they ended", manual.LIST),
    ("read", read, "print samples", manual.READ),
    ("plot", plot, "draw series in the terminal", manual.PLOT),
    ("tail", tail, "follow running sessions, a line a tick", manual.TAIL),
    ("export", export, "samples for other programs: CSV, JSON lines, OpenMetrics", manual.EXPORT),
    ("check", check, "look for damage in the store", manual.CHECK),
    ("stream", stream, "sessions as the stream that they were stored from", manual.STREAM),
    ("dump", dump, "all of the store, for rondo-store --restore", manual.DUMP),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run rondo-query with `argv` (default: the process' arguments). Returns the exit status."""
    if sys.stdout is None:
        print("rondo-query: standard output is closed; what is found goes there", file=sys.stderr)
        return EX_USAGE
    parser = command.Parser(prog="rondo-query", description=manual.DESCRIPTION)
    parser.epilog = f"{manual.NOTHING}\n\n{command.EXIT_STATUS}"
    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}")
    parser.add_argument("store", metavar="STORE", help="the folder that rondo-store writes")
    commands = parser.add_subparsers(metavar="|".join(name for name, *_ in COMMANDS), required=True)
    for name, function, summary, description in COMMANDS:
        epilog = None if function is check else manual.NOTHING  # of damage, nothing is good news
        sub = commands.add_parser(name, help=summary, description=description, epilog=epilog)
        sub.set_command(function)
    return command.run(parser, share.tied(sys.argv[1:] if argv is None else argv))
