"""The command line of rondo-feed: checks the flags, feeds, and reports what was left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

import argh

from rondo_tools import clock, command, stream, units
from rondo_tools.catalog import GAUGE, Series
from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, RondoError, UsageError
from rondo_tools.feed.lines import Lines
from rondo_tools.feed.run import Loop
from rondo_tools.feed.session import Session
from rondo_tools.feed.single import Claim
from rondo_tools.feed.text import Parser
from rondo_tools.producer.destination import address, open_stream, standard
from rondo_tools.producer.flags import checked_header, parse_label
from rondo_tools.producer.output import Output
from rondo_tools.producer.text import TextEncoder
from rondo_tools.ratelimit import RateLimit
from rondo_tools.selector import Selector, parse_selector
from rondo_tools.signals import Signals
from rondo_tools.stream import Header
from rondo_tools.units import format_count, format_duration
from rondo_tools.urls import parse_url

log = logging.getLogger(__name__)

DESCRIPTION = """\
Turn text into a stream: lines from standard input, or an exporter's page each interval.

  echo "jobs $(ls queue | wc -l)" | rondo-feed --instance jobs --output unix:/run/rondo/store.sock
  while sleep 1; do echo "jobs $(ls queue | wc -l)"; done | rondo-feed | rondo-store vmm_metrics
  rondo-feed --url http://127.0.0.1:9100/metrics --output unix:/run/rondo/store.sock
  echo 'temperature_celsius{room="a"} 21.5' | rondo-feed --text --hold 0

A line is NAME{LABEL="VALUE",...} VALUE [TIME]; the braces are optional. Lines that begin with # TYPE, # HELP
and # UNIT describe a name, so the Prometheus text format and OpenMetrics are valid input. A name is a counter
by its TYPE, or if it has no TYPE and ends in _total or _bucket; all others are gauges.

Lines without TIME: each interval has a tick with the newest value of each series. A value is repeated for
--hold; then its series has no value. Lines with TIME (Unix seconds or milliseconds): consecutive lines with
the same time are one tick at that time. Times must ascend.

After the end of standard input, the values are repeated for --hold, a tick each interval; then rondo-feed
sends the end and exits. So one line from cron shows in a graph. The next rondo-feed with the same --instance
and the same --output socket takes over from one that repeats values. With --hold 0 it exits at once.

With --url a series that is not on the page has no value. `up` is 1 if there was a page, and
`scrape_duration_seconds` is the duration of the scrape.

SIGINT, SIGTERM or SIGHUP (not under nohup) makes rondo-feed send the last values and the end. A second signal
gives up on undelivered ticks."""

EPILOG = """\
exit status of this command, beyond those below:
  65  lines were left out, or none had a value; the others were fed
  69  another rondo-feed feeds this instance to the same socket
  75  some ticks were not delivered
"""

DEFAULT_HOLD_MS = 300_000  # Prometheus' look-back
SHORTEST_MS = 100
_LONGEST_TIMEOUT_MS = 10_000
_WARNINGS, _WINDOW_S = 10, 60.0  # at most so many warnings of left out lines in this time


def parse_hold(text: str) -> int:
    """A duration in milliseconds, or 0. Raises UsageError."""
    return 0 if text in ("0", "0s") else units.parse_duration(text)


@argh.arg(
    "--url",
    type=command.typed(parse_url),
    metavar="URL",
    help="scrape this page each interval instead of standard input, such as http://127.0.0.1:9100/metrics",
)
@argh.arg(
    "--instance",
    type=str,
    metavar="NAME",
    help="the name of this source, unique for each script (default: the host's name; with --url, host:port)",
)
@argh.arg(
    "--label",
    type=command.typed(parse_label),
    action="append",
    metavar="NAME=VALUE",
    help="a label for all series; repeatable",
)
@argh.arg(
    "--interval",
    type=command.typed(partial(units.parse_duration, shortest_ms=SHORTEST_MS)),
    metavar="TIME",
    help="time between ticks, which are at multiples of it (default: 1s)",
)
@argh.arg(
    "--match",
    type=command.typed(parse_selector),
    metavar="SELECTOR",
    help="feed only these series, such as '{__name__=~\"node_cpu.*|node_load1\"}'",
)
@argh.arg(
    "--hold",
    type=command.typed(parse_hold),
    metavar="TIME",
    help="how long to repeat a value of standard input, also after the input's end (default: 5m)",
)
@argh.arg("--ignore-times", help="with --url: use the time of the scrape, and ignore the times of lines")
@argh.arg(
    "--timeout",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="with --url: the time-out of a scrape (default: nine tenths of the interval, at most 10s)",
)
@argh.arg(
    "--basic-auth-file",
    type=str,
    metavar="FILE",
    help="with --url: a file with USER:PASSWORD, read again when it changes",
)
@argh.arg(
    "--bearer-token-file",
    type=str,
    metavar="FILE",
    help="with --url: a file with a token, read again when it changes",
)
@argh.arg(
    "--ca-file",
    type=str,
    metavar="FILE",
    help="with --url: the CA certificate of the exporter, in PEM",
)
@argh.arg(
    "--output",
    type=str,
    metavar="-|FILE|unix:PATH|tcp:HOST:PORT",
    help="where to write the stream; - is standard output; a FILE is overwritten",
)
@argh.arg("--text", help="write readable lines instead of the stream")
@argh.arg(
    "--linger",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="how long to continue delivering after the end (default: 30s)",
)
def rondo_feed(
    *,
    url: str | None = None,
    instance: str | None = None,
    label: list[tuple[str, str]] | None = None,
    interval: int = 1_000,
    match: Selector | None = None,
    hold: int | None = None,
    ignore_times: bool = False,
    timeout: int | None = None,
    basic_auth_file: str | None = None,
    bearer_token_file: str | None = None,
    ca_file: str | None = None,
    output: str = "-",
    text: bool = False,
    linger: int = 30_000,
) -> None:
    files = {
        "basic_auth_file": basic_auth_file,
        "bearer_token_file": bearer_token_file,
        "ca_file": ca_file,
    }
    _check_flags(url, hold, {"ignore_times": ignore_times, "timeout": timeout, **files})
    labels = label or []
    with ExitStack() as opened:
        scraper = None
        if url is not None:
            from rondo_tools.feed.scrape import Scraper  # http.client takes 30 ms to load
            from rondo_tools.feed.target import Target

            page = Target(url, **files)
            scraper = opened.enter_context(closing(Scraper(page, _timeout_s(timeout, interval))))
            instance = page.instance if instance is None else instance
        header = _header(os.uname().nodename if instance is None else instance, labels, interval)
        target = open_stream(output, interval, text=text, example="rondo-feed | rondo-store vmm_metrics")
        opened.callback(target.close)
        claim = None
        if not text and address(output) is not None:
            claim = opened.enter_context(closing(Claim(output, header.instance)))
        session = Session(target, TextEncoder().encode if text else stream.encode, header)
        loop = Loop(session, target, opened.enter_context(Signals()))
        parser = Parser([name for name, _ in labels], match)
        lines = None
        if scraper is not None:
            from rondo_tools.feed.pages import Pages

            pages = Pages(parser, session, scraper, ignore_times=ignore_times)
            loop.run_pages(pages, scraper, claim)
        else:
            held_ms = DEFAULT_HOLD_MS if hold is None else hold
            lines = Lines(parser, session, held_ms, RateLimit(log, _WARNINGS, _WINDOW_S))
            loop.run_lines(lines, 0, claim)
        if claim is not None:
            claim.close()  # the next rondo-feed need not wait for the delivery
        is_signalled = loop.is_signalled
        if session.has_begun:
            loop.linger(linger / 1000)
            _check_delivered(target, text=text)
        if lines is not None and not is_signalled:
            _check_lines(lines, session)


def make_parser() -> command.Parser:
    """The parser of the command line, which man pages and completions are made from, too."""
    parser = command.Parser(prog="rondo-feed", description=DESCRIPTION, epilog=EPILOG)
    parser.set_command(rondo_feed)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(make_parser(), argv)


def _check_flags(url: str | None, hold: int | None, of_url: Mapping[str, object]) -> None:
    """Raise UsageError for flags of the other kind of input, and for a closed standard input."""
    if url is None:
        for name, value in of_url.items():
            if value:
                raise UsageError(f"--{name.replace('_', '-')} needs --url")
        standard(0, "input")
    elif hold is not None:
        raise UsageError("--hold is for standard input: a series that is not on a page has no value")


def _timeout_s(timeout_ms: int | None, interval_ms: int) -> float:
    if timeout_ms is None:
        timeout_ms = min(_LONGEST_TIMEOUT_MS, interval_ms * 9 // 10)
    if timeout_ms >= interval_ms:
        raise UsageError(
            f"--timeout {format_duration(timeout_ms)}: it must be less than the interval, "
            f"{format_duration(interval_ms)}"
        )
    return timeout_ms / 1000


def _header(instance: str, labels: list[tuple[str, str]], interval_ms: int) -> Header:
    """The header of all sessions, checked like a reader of the stream does; series are added later."""
    some = (Series("up", (), GAUGE, "", ""),)
    return checked_header(Header(instance, clock.now_ms(), (), interval_ms, some), labels)


def _check_delivered(output: Output, *, text: bool) -> None:
    if output.delivered or (text and output.gone):
        return
    ticks = units.format_count(output.backlog.count, "tick")
    what = f"{output.missing} of {ticks}" if output.missing else "the end"
    raise RondoError(f"{output.name}: {what} not delivered", exit_code=EX_TEMPFAIL)


def _check_lines(lines: Lines, session: Session) -> None:
    """Raise RondoError if lines were left out, or none had a value."""
    if lines.refused:
        raise RondoError(f"{format_count(lines.refused, 'line')} left out", exit_code=EX_DATAERR)
    if not session.has_begun:
        raise RondoError("standard input has ended without a value", exit_code=EX_DATAERR)
