"""rondo-store: the command line, and the loop that reads standard input.

The modules that store and serve are imported when they are needed, so that --help is quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial as partial_of
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import argh

from rondo_tools import command
from rondo_tools.errors import UsageError
from rondo_tools.selector import Selector
from rondo_tools.signals import Signals
from rondo_tools.store.forget.request import parse_forget
from rondo_tools.store.format.tiers import DEFAULT_TIERS, Tier, format_tiers, parse_tiers
from rondo_tools.store.sync import DEFAULT_POLICY, Policy, parse_policy
from rondo_tools.units import format_count, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from rondo_tools.store.intake import Counts
    from rondo_tools.store.keeper import Keeper
    from rondo_tools.store.opened import OpenStore
    from rondo_tools.store.server.self_metrics import SelfMetrics
    from rondo_tools.store.server.server import Server
    from rondo_tools.store.watermarks import Watermarks

log = logging.getLogger(__name__)

DESCRIPTION = f"""\
Store the streams of a host's VMs: every tick for ten minutes, coarser rows for a week.

  rondo-vmm --duration 45 | rondo-store vmm_metrics
  rondo-vmm --duration 45 | rondo-store vmm_metrics | rondo-push --remote-write URL
  rondo-store vmm_metrics < recorded.stream
  rondo-store vmm_metrics --listen unix:/run/rondo/store.sock
  rondo-store vmm_metrics --forget '{{instance="vm-1"}}'
  rondo-query vmm_metrics dump | rondo-store other_metrics --restore

Reads one stream from standard input, or serves many at once. If standard output is a pipe, it writes
watermarks to it, lines with the position up to which the journal is written, which rondo-push follows; if
their reader ends, storing continues. A stream may be stored again: ticks that the store has are skipped. If
DIR does not exist, it is made with the tiers (interval:span) {format_tiers(DEFAULT_TIERS)}.

After the first Ctrl-C, which also ends a rondo-vmm in the same pipe, it reads standard input to its end; a
second one, SIGTERM or SIGHUP (but not under nohup) stores what has arrived and ends; a server ends at
the first signal. On a full disk it waits until there is room."""

_LAST_LINES_S = 5.0
_LEAST_BYTES = 1 << 20
# The loop releases the interpreter lock at each system call; a roll-up in the other thread then holds it for
# this long. With the default of 5 ms a turn of a thousand calls would take seconds.
_SWITCH_S = 0.0005


def _folder(text: str) -> str:
    """The name of a store, which may not exist yet. Raises UsageError for likely mistakes."""
    if not text:
        raise UsageError("the name is empty; name the store's folder, such as vmm_metrics")
    if text == "help" and not Path(text).exists():
        raise UsageError("there is no store 'help': see --help, or write ./help to make it")
    return text


def _max_bytes(text: str) -> int:
    """The limit of the store's disk space. Raises UsageError if it is too small."""
    size = parse_size(text)
    if size < _LEAST_BYTES:
        raise UsageError(
            f"{text!r} is too small: {format_size(_LEAST_BYTES)} is the least; write 10G for gigabytes"
        )
    return size


@argh.arg("directory", type=command.typed(_folder), metavar="DIR", help="the store's folder")
@argh.arg(
    "--tiers",
    type=command.typed(parse_tiers),
    metavar="TIERS",
    help="for a new store: interval:span of each tier, finest first, such as 1s:10m,10s:6h,5m:7d",
)
@argh.arg(
    "--max-bytes",
    type=command.typed(_max_bytes),
    metavar="SIZE",
    help="limit of the store's disk space, at least 1M, such as 10G: the oldest files are evicted (default: "
    "a tenth of the file system, at most 16G)",
)
@argh.arg(
    "--sync",
    type=command.typed(parse_policy),
    metavar="WHEN",
    help="when to force data to the disk: always, never, or at an interval such as 5s",
)
@argh.arg(
    "--listen",
    action="append",
    metavar="ADDRESS",
    help="serve many streams at unix:PATH or tcp:HOST:PORT, until a signal comes; may be repeated",
)
@argh.arg("--socket-group", metavar="GROUP", help="the group that may connect to unix:PATH")
@argh.arg(
    "--idle-exit",
    type=command.typed(parse_duration),
    metavar="DURATION",
    help="end after so long without a connection",
)
@argh.arg("--restore", help="read a dump (rondo-query STORE dump) from standard input, and add its new data")
@argh.arg("--partial", help="with --restore: leave out rows of intervals that no tier has")
@argh.arg("--no-cursors", help="with --restore: leave the dump's cursors out, as for an archive")
@argh.arg("--no-health", help="with --listen: do not store its own metrics, as the instance rondo-store")
@argh.arg(
    "--forget",
    type=command.typed(parse_forget),
    metavar="SELECTOR",
    help="remove sessions from the store for good, such as '{instance=\"vm-1\"}', also while a rondo-store "
    "writes to it; reads no stream",
)
def rondo_store(
    directory: str,
    *,
    tiers: tuple[Tier, ...] | None = None,
    max_bytes: int | None = None,
    sync: Policy = DEFAULT_POLICY,
    listen: list[str] | None = None,
    socket_group: str | None = None,
    idle_exit: int | None = None,
    no_health: bool = False,
    forget: Selector | None = None,
    restore: bool = False,
    partial: bool = False,
    no_cursors: bool = False,
) -> None:
    serving = bool(
        listen or socket_group is not None or idle_exit is not None or no_health or sync != DEFAULT_POLICY
    )
    if forget is not None:
        if serving or tiers or max_bytes or restore or partial or no_cursors:
            raise UsageError("--forget takes no other flag")
        from rondo_tools.store.forget.client import forget_sessions  # only --forget needs it

        forget_sessions(directory, forget)
        return
    if restore:
        if serving:
            raise UsageError(
                "--restore reads standard input to its end, and forces everything to the disk: it takes no "
                "--listen, --socket-group, --idle-exit, --no-health or --sync"
            )
        _restore(directory, tiers, max_bytes, partial=partial, bring_cursors=not no_cursors)
        return
    if partial or no_cursors:
        raise UsageError("--partial and --no-cursors are for --restore")
    from rondo_tools.listeners import inherited
    from rondo_tools.listeners import listen as listen_at
    from rondo_tools.store.opened import OpenStore
    from rondo_tools.store.server.self_metrics import SelfMetrics
    from rondo_tools.store.server.server import Server
    from rondo_tools.store.watermarks import Watermarks

    with ExitStack() as opened:
        signals = opened.enter_context(Signals())
        handed_over = inherited()
        serves = bool(listen or handed_over)
        if not serves and (socket_group is not None or idle_exit is not None):
            raise UsageError("--socket-group and --idle-exit are for --listen")
        if not serves and (sys.stdin is None or sys.stdin.isatty()):
            raise UsageError(
                "standard input is a terminal or closed; give it a stream: rondo-vmm | rondo-store DIR, "
                "or --listen"
            )
        store = opened.enter_context(OpenStore(directory, tiers, max_bytes=max_bytes, sync=sync))
        watermarks = Watermarks(-1 if sys.stdout is None else sys.stdout.fileno())
        if serves:
            listeners = handed_over + [listen_at(address, socket_group) for address in listen or ()]
            for listener in listeners:
                opened.callback(listener.close)
                if not listener.is_guarded:
                    log.warning(
                        "--listen %s: everyone who reaches this address can write (no authentication)",
                        listener.name,
                    )
            idle_exit_s = idle_exit and idle_exit / 1000
            server = Server(store, listeners, watermarks, signals, idle_exit_s=idle_exit_s)
            _serve(server, watermarks, None if no_health else SelfMetrics(server))
        else:
            store.keep_house()
            _read(sys.stdin.fileno(), store, watermarks, signals)


def _restore(
    directory: str,
    tiers: tuple[Tier, ...] | None,
    max_bytes: int | None,
    *,
    partial: bool,
    bring_cursors: bool,
) -> None:
    from rondo_tools.store.restore import restore as restore_dump

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("a dump comes on standard input: rondo-query STORE dump | rondo-store DIR --restore")
    read = partial_of(os.read, sys.stdin.fileno())
    restore_dump(
        directory, read, tiers=tiers, max_bytes=max_bytes, partial=partial, bring_cursors=bring_cursors
    )


def _read(fd: int, store: OpenStore, watermarks: Watermarks, signals: Signals) -> None:
    from rondo_tools.store.intake import Intake
    from rondo_tools.store.stdin import read_to_end

    intake = Intake(store.keeper)
    try:
        read_to_end(fd, intake, store, watermarks, signals)
    finally:
        watermarks.drain(_LAST_LINES_S)
        _log_counts(intake.counts, store.keeper)
    if not intake.counts.sessions:
        log.info("standard input ended without a stream: nothing was stored")


def _serve(server: Server, watermarks: Watermarks, metrics: SelfMetrics | None) -> None:
    from rondo_tools.sd_notify import Notifier

    sys.setswitchinterval(_SWITCH_S)
    _log_limit(server.store)
    server.store.upkeep.keep_reserve()
    notifier = Notifier()
    if notifier.alive_every_s is not None:
        server.timers.every(notifier.alive_every_s, notifier.alive)
    notifier.ready()
    try:
        server.run()
        if metrics is not None:
            metrics.close()
        server.finish()
    finally:
        notifier.stopping()
        watermarks.drain(_LAST_LINES_S)
        _log_counts(server.counts, server.keeper)


def _log_limit(store: OpenStore) -> None:
    """Log the limit of the store's disk space, and the hours of ticks that it holds."""
    path, bound = store.keeper.folder.layout.path, format_size(store.upkeep.max_bytes)
    hours = store.upkeep.hours_of_ticks()
    if hours is None:
        log.info("%s: at most %s (--max-bytes)", path, bound)
    else:
        log.info(
            "%s: at most %s (--max-bytes): %.1f hours of every tick, at the present rate", path, bound, hours
        )


def _log_counts(counts: Counts, keeper: Keeper) -> None:
    stored = max(counts.stored - keeper.pending_ticks, 0)  # our own metrics' ticks may be pending, too
    expired = f", {counts.expired} expired" if counts.expired else ""
    log.info(
        "%s stored, %s; %d late, %d ahead of the clock%s",
        format_count(stored, "tick"),
        format_count(counts.sessions, "session"),
        counts.late,
        counts.ahead,
        expired,
    )


class _ShareDir(argparse.Action):
    """Like --version: needs no store."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from rondo_tools.share import share_dir

        print(share_dir())
        parser.exit()


def make_parser() -> command.Parser:
    """The parser of rondo-store."""
    parser = command.Parser(prog="rondo-store", description=DESCRIPTION)
    parser.set_command(rondo_store)
    parser.add_argument(
        "--share-dir",
        action=_ShareDir,
        nargs=0,
        help="print the folder that systemd units, dashboards and rules are installed in, and exit",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(make_parser(), argv)
