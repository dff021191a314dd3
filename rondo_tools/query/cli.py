"""The command line of rondo-query: which sessions there are, their samples as text, their curves.

numpy and the store's reader are imported where they are needed, so that --help is quick.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import argh

from rondo_tools import __version__, command
from rondo_tools.errors import UsageError
from rondo_tools.selector import parse_selector

if TYPE_CHECKING:
    from rondo_tools.query.curve import Match, Question
    from rondo_tools.store.reader import Store

DESCRIPTION = """\
Look into a store of rondo-store, also while it is being written.

  rondo-query vmm_metrics list
  rondo-query vmm_metrics read 'vcpu_exits_total{reason="io"}' --rate
  rondo-query vmm_metrics read '{instance=~"vm-.*"}' --range 10m --format csv > vm.csv
  rondo-query vmm_metrics plot 'vcpu_exits_total' --rate

Each command has its own help: rondo-query STORE read --help
"""

LIST = """\
One line for each session, which is one life of an instance, by start:

  instance  session  first  last  state  age_s  series  rows_1s  rows_10s  rows_5m  bytes

session is the time it began, first and last the oldest and the newest tick held, age_s the
seconds since the last. state is how it ended (poweroff, reset, shutdown, deadline, signal, error), or
running, or silent: no end, and no tick for three intervals and five seconds. The rows that each tier
holds are counted, and the bytes on disk.

  rondo-query vmm_metrics list | awk '$5 == "silent" {print $1, $6}'
"""

SELECTOR = """\
SELECTOR is written as in Prometheus, NAME{LABEL="VALUE", ...}, with = != =~ !~; the labels are
instance, those of the VM and those of the series, and {} means everything:

  vmm_rss_bytes    vcpu_exits_total{reason=~"io|mmio"}    {__name__=~"blk_.+",instance="vm-1"}
"""

READ = f"""\
Print samples, one a line: time, session, series, value, each session by itself.

  rondo-query vmm_metrics read 'vcpu_exits_total{{reason="io"}}' --rate --range 10m
  rondo-query vmm_metrics read vmm_rss_bytes | awk '$4+0 > m {{m = $4}} END {{print m}}'
  rondo-query vmm_metrics read '{{}}' --format json | jq -c 'select(.value == null)'

{SELECTOR}
"""

PLOT = f"""\
Draw series in the terminal, each session by itself. Needs plotext (pip install 'rondo-tools[plot]').

  rondo-query vmm_metrics plot vcpu_exits_total --rate
  rondo-query vmm_metrics plot vmm_rss_bytes --start 2026-11-23T09:00:00Z --end 2026-11-23T10:00:00Z

{SELECTOR}
"""

NOTHING = "Like grep, it ends with exit status 1 when there is nothing to show."


Command = Callable[..., None]


def _together(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator that adds all these flags, in this order."""

    def decorate(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_format_flags = _together(
    argh.arg("--format", choices=("table", "csv", "json"), default="table", help="json: one object a line"),
    argh.arg("--unix", action="store_true", default=False, help="print times in Unix milliseconds"),
)

_question_flags = _together(
    argh.arg("selector", metavar="SELECTOR", help="which series, such as 'vmm_rss_bytes'"),
    argh.arg("--range", metavar="DURATION", help="only the last, such as 90s, 10m, 2h (up to --end)"),
    argh.arg(
        "--start",
        metavar="TIME",
        help="from then on: 2026-11-23T10:00:00Z (UTC if no zone is named), Unix seconds, "
        "or -10m for ten minutes ago (default: all that the tier holds)",
    ),
    argh.arg("--end", metavar="TIME", help="up to then, written as for --start (default: no end)"),
    argh.arg(
        "--tier",
        metavar="auto|0|1|2",
        help="resolution: 0 is every tick, 1 and 2 are coarser and reach further back; auto is, for "
        "each session, the finest that reaches back to the start that is asked for, or to its own "
        "(default: auto with --range or --start, else 0)",
    ),
    argh.arg(
        "--aggregate",
        choices=("avg", "min", "max"),
        default="avg",
        help="of a gauge, over each interval of a tier above 0",
    ),
    argh.arg(
        "--rate",
        action="store_true",
        default=False,
        help="of counters: increase per second since the value before; the first value has none",
    ),
)


@_format_flags
def list_sessions(**flags: Any) -> None:
    from rondo_tools.errors import StoreError
    from rondo_tools.query import life, output
    from rondo_tools.store.reader import Store

    store = Store(flags["store"])
    records, unread = life.lives(store, _now_ms(), unix=flags["unix"])
    output.write_records(sys.stdout, flags["format"], records, life.fields(store))
    if unread:
        raise StoreError(f"{unread} sessions could not be read")


@_question_flags
@_format_flags
def read(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve, output

    store, matches, question = _ask(selector, flags)
    writer = output.SampleWriter(sys.stdout, flags["format"], unix=flags["unix"], matches=matches)
    for each in curve.curves(matches, question, store.tiers):
        writer.write(each)
    if not writer.samples:
        raise curve.nothing(matches, question)


@_question_flags
@argh.arg("--width", type=int, metavar="COLUMNS", help="of the picture (default: the terminal's, else 80)")
@argh.arg("--height", type=int, metavar="LINES", help="with the legend (default: the terminal's, else 24)")
def plot(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve
    from rondo_tools.query import plot as picture

    store, matches, question = _ask(selector, flags)
    curves = [each for each in curve.curves(matches, question, store.tiers) if picture.has_values(each)]
    if not curves:
        raise curve.nothing(matches, question)
    terminal = shutil.get_terminal_size()  # honours COLUMNS and LINES; 80 x 24 where there is none
    picture.draw(
        curves,
        sys.stdout,
        width=max(terminal.columns, picture.MIN_WIDTH) if flags["width"] is None else flags["width"],
        height=max(terminal.lines, picture.MIN_HEIGHT) if flags["height"] is None else flags["height"],
        color=picture.wants_color(sys.stdout),
        rate=question.rate,
    )


def _ask(selector: str, flags: dict[str, Any]) -> tuple[Store, list[Match], Question]:
    """Open the store and find what is asked for. Raises RondoError before anything is printed."""
    from rondo_tools.query.curve import Question, check, find
    from rondo_tools.query.times import make_span
    from rondo_tools.store.reader import Store

    wanted = parse_selector(selector)
    span = make_span(flags["range"], flags["start"], flags["end"], _now_ms())
    tier_text = flags["tier"] or ("0" if span.start_ms is None else "auto")
    if not re.fullmatch(r"auto|[0-9]", tier_text):
        raise UsageError(f"--tier {tier_text!r}: write auto, or the number of a tier")
    tier = None if tier_text == "auto" else int(tier_text)
    question = Question(span, tier, flags["aggregate"], flags["rate"])
    store = Store(flags["store"])
    matches = find(store.sessions(), wanted)
    check(question, matches, store.tiers)
    return store, matches, question


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tied(argv: Sequence[str]) -> list[str]:
    """Tie ``-10m`` to the flag before it: argparse would take it for a flag of its own."""
    tied: list[str] = []
    for word in argv:
        if tied and tied[-1] in ("--start", "--end") and re.match(r"-\d", word):
            tied[-1] += f"={word}"
        else:
            tied.append(word)
    return tied


def main(argv: Sequence[str] | None = None) -> int:
    """Run rondo-query with `argv` (default: the process' arguments). Returns the exit status."""
    parser = command.Parser(prog="rondo-query", description=DESCRIPTION)
    parser.epilog = f"{NOTHING}\n\n{command.EXIT_STATUS}"
    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}")
    parser.add_argument("store", metavar="STORE", help="the folder that rondo-store writes")
    commands = parser.add_subparsers(metavar="list|read|plot", required=True)
    for name, function, summary, description in (
        ("list", list_sessions, "which sessions there are, and how they ended", LIST),
        ("read", read, "print samples", READ),
        ("plot", plot, "draw series in the terminal", PLOT),
    ):
        sub = commands.add_parser(name, help=summary, description=description, epilog=NOTHING)
        sub.set_command(function)
    return command.run(parser, _tied(sys.argv[1:] if argv is None else argv))
