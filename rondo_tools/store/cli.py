"""rondo-store: the command line, and the loop that reads standard input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import argh

from rondo_tools import command
from rondo_tools.errors import UsageError
from rondo_tools.signals import Signals
from rondo_tools.store import endpoint
from rondo_tools.store.health import Health
from rondo_tools.store.ingest import Counts, Ingest
from rondo_tools.store.lines import Lines
from rondo_tools.store.notify import Notifier
from rondo_tools.store.pipe import read_to_end
from rondo_tools.store.server import Server
from rondo_tools.store.sync import DEFAULT_POLICY, Policy, parse_policy
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, format_tiers, parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.units import format_count, parse_duration, parse_size

log = logging.getLogger(__name__)

DESCRIPTION = f"""\
Store the stream of rondo-vmm, second by second, in round-robin files of fixed size.

  rondo-vmm --duration 45 | rondo-store vmm_metrics
  rondo-vmm --duration 45 | rondo-store vmm_metrics | rondo-push --remote-write URL
  rondo-store vmm_metrics < recorded.stream
  rondo-store vmm_metrics --listen unix:/run/rondo/store.sock

Reads one stream from standard input, or serves many at once. For what it stores it writes lines to
standard output, the folder of the session and the time up to which it is closed, which rondo-push
follows; when their reader leaves, storing goes on. A stream that is stored already may be given
again: what is known is passed over. DIR is made when it is not there, with the tiers (interval:span)
{format_tiers(DEFAULT_TIERS)}.

The first Ctrl-C lets standard input come to its end, which the Ctrl-C has told to rondo-vmm too; a
second one, SIGTERM or SIGHUP (but not under nohup) stores what has arrived and ends; a server ends at
the first signal. A full disk holds the input up until there is room."""

_LAST_LINES_S = 5.0


def _folder(text: str) -> str:
    """A name for a store, which may have to be made: not what somebody typed who meant something else."""
    if not text:
        raise UsageError("the name is empty; name the store's folder, such as vmm_metrics")
    if text == "help" and not Path(text).exists():
        raise UsageError("there is no store 'help': see --help, or write ./help to make it")
    return text


@argh.arg("directory", type=command.typed(_folder), metavar="DIR", help="the store's folder")
@argh.arg(
    "--tiers",
    type=command.typed(parse_tiers),
    metavar="TIERS",
    help="for a new store: interval:span of each tier, finest first, such as 1s:10m,10s:6h,5m:7d",
)
@argh.arg(
    "--max-bytes",
    type=command.typed(parse_size),
    metavar="SIZE",
    help="what the store may take on the disk, such as 10G: ended sessions go to make room",
)
@argh.arg(
    "--sync",
    type=command.typed(parse_policy),
    metavar="WHEN",
    help="when data is forced to the disk: always, never, or every so often",
)
@argh.arg(
    "--listen",
    action="append",
    metavar="ADDRESS",
    help="serve many streams at unix:PATH or tcp:HOST:PORT, until a signal comes; may be repeated",
)
@argh.arg("--socket-group", metavar="GROUP", help="who may connect to unix:PATH, besides its owner")
@argh.arg(
    "--idle-exit",
    type=command.typed(parse_duration),
    metavar="DURATION",
    help="end when nobody has been connected for so long",
)
@argh.arg("--no-health", help="with --listen: do not store its own counts, as the instance rondo-store")
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
) -> None:
    with ExitStack() as opened:
        signals = opened.enter_context(Signals())
        handed_over = endpoint.inherited()
        serves = bool(listen or handed_over)
        if not serves and (socket_group is not None or idle_exit is not None):
            raise UsageError("--socket-group and --idle-exit are for --listen")
        if not serves and (sys.stdin is None or sys.stdin.isatty()):
            raise UsageError(
                "standard input is a terminal or closed; give it a stream: rondo-vmm | rondo-store DIR, "
                "or --listen"
            )
        store = opened.enter_context(StoreWriter(directory, tiers, max_bytes=max_bytes, sync=sync))
        store.room.expire()
        store.room.make_room()
        lines = Lines(-1 if sys.stdout is None else sys.stdout.fileno())
        if serves:
            listeners = handed_over + [endpoint.listen(address, socket_group) for address in listen or ()]
            for listener in listeners:
                opened.callback(listener.close)
            server = Server(store, listeners, lines, signals, idle_exit_s=idle_exit and idle_exit / 1000)
            _serve(server, lines, None if no_health else Health(server))
        else:
            _read(sys.stdin.fileno(), Ingest(store), lines, signals)


def _read(fd: int, ingest: Ingest, lines: Lines, signals: Signals) -> None:
    try:
        read_to_end(fd, ingest, lines, signals)
    finally:
        ingest.close()
        lines.update(ingest.closed)
        lines.drain(_LAST_LINES_S)
        _say(ingest.counts)


def _serve(server: Server, lines: Lines, health: Health | None) -> None:
    notifier = Notifier()
    if notifier.alive_every_s is not None:
        server.timers.every(notifier.alive_every_s, notifier.alive)
    notifier.ready()
    try:
        server.run()
    finally:
        notifier.stopping()
        if health is not None:
            health.close()
        server.tell_all()
        lines.drain(_LAST_LINES_S)
        _say(server.counts)


def _say(counts: Counts) -> None:
    log.info(
        "%s stored, %s; %d late, %d ahead of the clock",
        format_count(counts.stored, "tick"),
        format_count(counts.sessions, "session"),
        counts.late,
        counts.ahead,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.Parser(prog="rondo-store", description=DESCRIPTION)
    parser.set_command(rondo_store)
    return command.run(parser, argv)
