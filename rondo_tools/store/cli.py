"""rondo-store: the command line, and the loop that reads standard input."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence

import argh

from rondo_tools import command
from rondo_tools.errors import EX_TEMPFAIL, StoreError, UsageError
from rondo_tools.signals import Signals
from rondo_tools.store.ingest import Ingest
from rondo_tools.store.lines import Lines
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, format_tiers, parse_tiers
from rondo_tools.store.writer import StoreWriter

log = logging.getLogger(__name__)

DESCRIPTION = f"""\
Store the stream of rondo-vmm, second by second, in round-robin files of fixed size.

  rondo-vmm --duration 45 | rondo-store vmm_metrics
  rondo-vmm --duration 45 | rondo-store vmm_metrics | rondo-push --remote-write URL
  rondo-store vmm_metrics < recorded.stream

Reads one stream from standard input. For what it stores it writes lines to standard output, the
folder of the session and the time up to which it is closed, which rondo-push follows; when their
reader leaves, storing goes on. A stream that is stored already may be given again: what is known
is passed over. DIR is made when it is not there, with the tiers (interval:span)
{format_tiers(DEFAULT_TIERS)}.

The first Ctrl-C lets the input come to its end, which the Ctrl-C has told to rondo-vmm too; a
second one, or SIGTERM, stores what has arrived and ends. A full disk holds the input up until
there is room."""

_READ = 1 << 16  # bytes at once; also what a full disk may hold back
_PIPE = 1 << 20  # bytes that may be under way when we are told to stop (pipe(7), pipe-max-size)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LAST_LINES_S = 5.0


@argh.arg("directory", metavar="DIR", help="the store's folder")
@argh.arg(
    "--tiers",
    type=command.typed(parse_tiers),
    metavar="TIERS",
    help="for a new store: interval:span of each tier, finest first, such as 1s:10m,10s:6h,5m:7d",
)
def rondo_store(directory: str, *, tiers: tuple[Tier, ...] | None = None) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "standard input is a terminal or closed; give it a stream: rondo-vmm | rondo-store DIR"
        )
    with Signals() as signals, StoreWriter(directory, tiers) as store:
        store.expire()
        ingest, lines = Ingest(store), Lines(-1 if sys.stdout is None else sys.stdout.fileno())
        try:
            _read_to_end(sys.stdin.fileno(), ingest, lines, signals)
        finally:
            ingest.close()
            lines.update(ingest.closed)
            lines.drain(_LAST_LINES_S)
            log.info(
                "%d ticks stored, %d sessions; %d late, %d ahead of the clock",
                ingest.stored,
                ingest.sessions,
                ingest.late,
                ingest.ahead,
            )


def _read_to_end(fd: int, ingest: Ingest, lines: Lines, signals: Signals) -> None:
    """Store what `fd` gives until its end, or until a signal says to stop."""
    interrupts = 0
    stopping = False
    left = _PIPE  # bytes to read yet after that
    while True:
        ready, _, _ = select.select([fd, signals.fileno()], [], [], 0 if stopping else None)
        if signals.fileno() in ready:
            for number in signals.take():
                interrupts += number == signal.SIGINT
                stopping |= number == signal.SIGTERM or interrupts > 1
            if interrupts == 1 and not stopping:
                log.info("reading on to the end of the input; Ctrl-C again to stop now")
            continue
        if fd not in ready:
            return None  # told to stop, and nothing more has arrived
        data = os.read(fd, _READ)
        if not data:
            return ingest.end_of_input()
        try:
            ingest.feed(data)
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            _wait_for_room(ingest, signals, exc)
        lines.update(ingest.closed)
        ingest.closed.clear()
        if stopping and (left := left - len(data)) <= 0:
            return None  # else a producer as fast as we are would never let us go


def _wait_for_room(ingest: Ingest, signals: Signals, exc: OSError) -> None:
    log.warning("%s; waiting for room", exc.strerror)
    while True:
        select.select([signals.fileno()], [], [], 1.0)
        if signals.take():
            raise StoreError(
                f"{exc.strerror}: ended by a signal; what is not stored must be sent again",
                exit_code=EX_TEMPFAIL,
            ) from exc
        try:
            ingest.store()
        except OSError as again:
            if again.errno not in _FULL:
                raise
        else:
            log.info("there is room again")
            return


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.Parser(prog="rondo-store", description=DESCRIPTION)
    parser.set_command(rondo_store)
    return command.run(parser, argv)
