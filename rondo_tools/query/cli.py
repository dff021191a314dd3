"""The command line of rondo-query: lists sessions, prints samples, draws curves.

Each command is a module in `commands/`, with its help and flags; `ask` finds its sessions and series.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Sequence
from typing import Any

from rondo_tools import __version__, command
from rondo_tools.errors import EX_USAGE
from rondo_tools.query import flags as share
from rondo_tools.query import manual
from rondo_tools.query.arguments import NOT_GIVEN, arrange
from rondo_tools.query.commands import (
    check,
    dump,
    export,
    listing,
    plot,
    read,
    series,
    status,
    stream,
    tail,
    top,
)
from rondo_tools.store.default import default_store

log = logging.getLogger(__name__)

COMMANDS = (
    ("top", top.top, "show what each VM does, every second or over a range", top.HELP),
    ("status", status.status, "check the store: writer, VMs, disk, deliveries", status.HELP),
    ("list", listing.list_sessions, "list the sessions, and how they ended", listing.HELP),
    ("read", read.read, "print samples", read.HELP),
    ("plot", plot.plot, "draw series in the terminal", plot.HELP),
    ("tail", tail.tail, "follow running sessions, a line per tick", tail.HELP),
    ("series", series.series, "list the series: kind, unit, help", series.SERIES_HELP),
    ("labels", series.labels, "list the labels of the series", series.LABELS_HELP),
    ("values", series.values, "list the values of a label", series.VALUES_HELP),
    ("export", export.export, "print samples for other programs: CSV, JSON lines, OpenMetrics", export.HELP),
    ("check", check.check, "look for damage in the store", check.HELP),
    ("stream", stream.stream, "write sessions as the stream that they were stored from", stream.HELP),
    ("dump", dump.dump, "write the whole store, for rondo-store --restore", dump.HELP),
)


def make_parser() -> command.Parser:
    """The parser of rondo-query, with all of its commands."""
    parser = command.Parser(prog="rondo-query", description=manual.DESCRIPTION)
    parser.epilog = f"{manual.NOTHING}\n\n{command.EXIT_STATUS}"
    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}")
    for name, function, summary, description in COMMANDS:
        # For check, no findings are good news, and status always has output.
        epilog = None if name in ("check", "status") else manual.NOTHING
        sub = parser.add_command(name, help=summary, description=description, epilog=epilog)
        sub.add_argument("store", metavar="[STORE]", help=manual.STORE)
        sub.set_command(_with_store(function))
    return parser


def _with_store(function: share.Command) -> share.Command:
    """The command with the default store if none is named."""

    @functools.wraps(function)
    def with_store(*arguments: Any, **flags: Any) -> None:
        if flags["store"] == NOT_GIVEN:
            flags["store"] = default_store()
            log.debug("the store is %s", flags["store"])
        function(*arguments, **flags)

    return with_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run rondo-query with `argv` (default: the process' arguments). Returns the exit status."""
    if sys.stdout is None:
        print(
            "rondo-query: standard output is closed, but the results go there\ntry: rondo-query --help",
            file=sys.stderr,
        )
        return EX_USAGE
    parser = make_parser()
    return command.run(parser, arrange(parser, share.tied(sys.argv[1:] if argv is None else argv)))
