"""The flags that several commands of rondo-query share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import argh

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


selector = argh.arg("selector", metavar="SELECTOR", help="which series, such as 'vmm_rss_bytes'")
utc = argh.arg(
    "--utc",
    action="store_true",
    default=False,
    help="read and print times in UTC; else a time without a zone is local, and so is what a terminal shows",
)
times = together(
    argh.arg("--unix", action="store_true", default=False, help="print times in Unix milliseconds"), utc
)
rate = argh.arg(
    "--rate",
    action="store_true",
    default=False,
    help="of counters: increase per second since the value before; the first value has none",
)
format = together(
    argh.arg("--format", choices=("table", "csv", "json"), default="table", help="json: one object a line"),
    times,
)
question = together(
    selector,
    argh.arg("--range", metavar="DURATION", help="only the last, such as 90s, 10m, 2h (up to --end)"),
    argh.arg(
        "--start",
        metavar="TIME",
        help="from then on: 14:12, 'yesterday 3:00', '2026-11-23 10:00', 2026-11-23T10:00:00Z, -10m for ten "
        "minutes ago, now, Unix seconds (default: all that is kept)",
    ),
    argh.arg(
        "--end", metavar="TIME", help="up to then, written as for --start; 14:15 is the first one after it"
    ),
    argh.arg(
        "--tier",
        metavar="auto|0|1|2",
        default="auto",
        help="resolution: 0 is every tick, 1 and 2 are coarser and reach further back; auto is, for "
        "each session, the finest that reaches back to the start that is asked for, or to its own "
        "(default: auto)",
    ),
    argh.arg(
        "--aggregate",
        choices=("avg", "min", "max", "last"),
        default="avg",
        help="of a gauge, over each interval of a tier above 0; last is there for counters only, and of "
        "them nothing else",
    ),
)


def face(out: TextIO, flags: Mapping[str, Any]) -> Face:
    """How a command shows times in its data: what is for programs is in UTC also on a terminal."""
    from rondo_tools.query.face import face

    is_utc = flags["utc"] or flags.get("format", "table") != "table"
    return face(out, utc=is_utc, unix=flags["unix"])


def count(text: str) -> int:
    """A number from 0 on. Raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"{text!r} is not a count")
    return int(text)


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
    # In a locale without such characters they arrive as the bytes of UTF-8.
    return name, value.encode(errors="surrogateescape").decode(errors="surrogateescape")


def tied(argv: Sequence[str]) -> list[str]:
    """Tie ``-10m`` to the flag before it: argparse would take it for a flag of its own."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--start", "--end", "--since") and re.match(r"-\d", word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words
