"""Flags shared by several commands of rondo-query."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import argh

from rondo_tools import command
from rondo_tools.errors import UsageError

if TYPE_CHECKING:
    from rondo_tools.query.face import Face

Command = Callable[..., None]


def together(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator that adds all these flags, in this order."""

    def decorate(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def some_sessions(more: str = "") -> Callable[[Command], Command]:
    """An optional selector of whole sessions; `more` continues its help."""
    decorator: Callable[[Command], Command] = argh.arg(
        "selector",
        nargs="?",
        metavar="SELECTOR",
        default="{}",
        help=f"only sessions with a matching series{more}",
    )
    return decorator


selector = argh.arg("selector", metavar="SELECTOR", help="which series, such as 'vmm_rss_bytes'")
utc = argh.arg(
    "--utc",
    action="store_true",
    default=False,
    help="read and print times in UTC; otherwise a time without a zone, and times on a terminal, are local",
)
times = together(
    argh.arg("--unix", action="store_true", default=False, help="print times in Unix milliseconds"), utc
)
rate = argh.arg(
    "--rate",
    action="store_true",
    default=False,
    help="for counters: increase per second since the previous value; the first value has none",
)
format = together(
    argh.arg("--format", choices=("table", "csv", "json"), default="table", help="json: one object a line"),
    times,
)
wide = argh.arg(
    "--wide", action="store_true", default=False, help="print the whole table on a terminal too, as in a pipe"
)
format_or_page = together(
    argh.arg(
        "--format",
        choices=("table", "csv", "json"),
        help="json: one object a line (default: a table; on a terminal one that fits it)",
    ),
    wide,
)
question = together(
    selector,
    argh.arg("--range", metavar="DURATION", help="only the last 90s, 10m, 2h, ... (up to --end)"),
    argh.arg(
        "--start",
        metavar="TIME",
        help="first time: 14:12, 'yesterday 3:00', '2026-11-23 10:00', 2026-11-23T10:00:00Z, -10m for ten "
        "minutes ago, now, Unix seconds (default: everything that is kept)",
    ),
    argh.arg(
        "--end",
        metavar="TIME",
        help="last time, written as for --start; 14:15 is the first one after --start",
    ),
    argh.arg(
        "--tier",
        metavar="auto|0|1|2",
        default="auto",
        help="resolution: 0 is every tick, 1 and 2 are coarser and reach further back; auto is, for "
        "each session, the finest that reaches back to --start, or to the session's start (default: auto)",
    ),
    argh.arg(
        "--aggregate",
        choices=("avg", "min", "max", "last"),
        default="avg",
        help="of a gauge, over each interval of a tier above 0, and each step of --sum and the like; last is "
        "for counters only, which have no other",
    ),
)

_GROUPED = (
    ("sum", "one series for each name, or each value of --by: the sum at each step"),
    ("avg", "the same with their average"),
    ("max", "the same with their maximum"),
    ("min", "the same with their minimum"),
    ("count", "the same with the number of series that have a value"),
)
combining = together(
    argh.arg(
        "--session",
        metavar="LIFE",
        help="only these lives of each instance: last or -1, -2 for the one before, or its start, as "
        "list shows it or to the second, minute or day; several with commas",
    ),
    argh.arg(
        "--since-birth",
        action="store_true",
        default=False,
        help="print times since the start of each life, in seconds, so that lives can be compared",
    ),
    *(argh.arg(f"--{how}", action="store_true", default=False, help=help) for how, help in _GROUPED),
    argh.arg(
        "--quantile",
        metavar="Q",
        type=command.typed(lambda text: quantile(text)),
        help="the same with a quantile, from 0 to 1: 0.5 is the median",
    ),
    argh.arg(
        "--by",
        metavar="LABEL[,...]",
        type=command.typed(lambda text: label_names(text)),
        default=(),
        help="group by these labels, such as instance or reason; session is each life (default: by name)",
    ),
    argh.arg(
        "--topk",
        metavar="N",
        type=command.typed(lambda text: positive(text)),
        help="only the N highest series, or groups, by their average; the highest first",
    ),
)
pivot = argh.arg(
    "--pivot",
    action="store_true",
    default=False,
    help="a column for each series, and a row for each time; table and csv only",
)


def face(out: TextIO, flags: Mapping[str, Any]) -> Face:
    """The format of times in a command's data: data for programs is in UTC on a terminal too."""
    from rondo_tools.query.face import face

    is_utc = flags["utc"] or (flags.get("format") or "table") != "table"
    return face(out, utc=is_utc, unix=flags["unix"])


def how(flags: Mapping[str, Any]) -> str | None:
    """The name of the combining flag, if one is given. Raises UsageError."""
    found = [name for name, _ in _GROUPED if flags[name]]
    found += ["quantile"] if flags["quantile"] is not None else []
    if len(found) > 1:
        raise UsageError(f"--{found[0]} and --{found[1]}: give one of them")
    if flags["by"] and not found:
        known = ", ".join(f"--{name}" for name, _ in _GROUPED)
        raise UsageError(f"--by groups series: choose what to compute, {known} or --quantile")
    return found[0] if found else None


def count(text: str) -> int:
    """A number >= 0. Raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"{text!r} is not a count")
    return int(text)


def positive(text: str) -> int:
    """A number >= 1. Raises UsageError."""
    if not count(text):
        raise UsageError("at least 1 is needed")
    return count(text)


def quantile(text: str) -> float:
    """A number from 0 to 1. Raises UsageError."""
    if not re.fullmatch(r"0|1|[01]?\.[0-9]{1,15}", text) or float(text) > 1:
        raise UsageError(f"{text!r} is not a quantile: write a number from 0 to 1, such as 0.99")
    return float(text)


def label_names(text: str) -> tuple[str, ...]:
    """``instance,reason``. Raises UsageError."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise UsageError(f"{name!r} is not a label: write instance, reason, or several with commas")
    return names


def states(text: str) -> frozenset[str]:
    """``silent,lost``: any of these. Raises UsageError."""
    found = text.split(",")
    for one in found:
        if not re.fullmatch(r"[a-z]{1,32}", one):
            raise UsageError(f"{one!r} is not a state: write running, silent, or how a session ended")
    return frozenset(found)


def label(text: str) -> tuple[str, str]:
    """``job=rondo-vmm`` as (name, value). Raises UsageError."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{text!r} is not a label: write NAME=VALUE")
    # In a locale without these characters they arrive as bytes of UTF-8.
    return name, value.encode(errors="surrogateescape").decode(errors="surrogateescape")


def tied(argv: Sequence[str]) -> list[str]:
    """Join ``-10m`` to the flag before it: argparse would take it for a flag."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--start", "--end", "--since", "--session") and re.match(r"-\d", word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words
