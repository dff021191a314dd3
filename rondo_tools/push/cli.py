"""The command line of rondo-push: checks the flags and makes a pusher from them.

The modules that read the store and deliver are imported where they are used, so that --help is fast.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import argh

from rondo_tools import command
from rondo_tools.errors import EX_DATAERR, RondoError, UsageError
from rondo_tools.prom.labels import parse_external, parse_job
from rondo_tools.push.encoding import PROTOCOLS, V1
from rondo_tools.push.http.credentials import parse_credentials
from rondo_tools.selector import Selector, parse_selector
from rondo_tools.store.default import default_store
from rondo_tools.store.format.layout import parse_cursor_name
from rondo_tools.units import parse_count, parse_duration
from rondo_tools.urls import parse_url
from rondo_tools.wakeup import Wakeup

if TYPE_CHECKING:
    from rondo_tools.push.delivery import Delivery
    from rondo_tools.push.service import Stores
    from rondo_tools.store.format.opened import OpenedStore

DEFAULT_CURSOR = "prometheus"
DEFAULT_INTERVAL_S = 10.0
MAX_TIERS = 8  # of any store
MAX_COUNT = 1_000_000
LONGEST_S = 86_400.0

log = logging.getLogger(__name__)

DESCRIPTION = """\
Deliver the new samples of a store to a Prometheus remote-write endpoint, each sample once.

With STORE, delivers everything new and exits: for cron. With --interval as well, delivers again and
again until a signal stops it. Without STORE it follows rondo-store's lines on standard input, and
delivers the rest when they end:

  rondo-vmm | rondo-store vmm_metrics | rondo-push --remote-write http://127.0.0.1:9090/api/v1/write

  rondo-push vmm_metrics --remote-write https://prometheus.example/api/v1/write

The cursor, cursor_NAME.json in the store, has the progress. An endpoint that is down costs only time:
run it again.
"""


def _duration_s(text: str) -> float:
    return parse_duration(text) / 1000


@argh.arg(
    "store",
    nargs="?",
    metavar="STORE",
    help="folder of the store; without it rondo-push follows standard input, and --status and --dry-run use "
    "$RONDO_STORE, ./vmm_metrics or /var/lib/rondo/vmm_metrics",
)
@argh.arg(
    "--remote-write",
    metavar="URL",
    type=command.typed(parse_url),
    help="the endpoint to deliver to, such as http://127.0.0.1:9090/api/v1/write",
)
@argh.arg(
    "--protocol",
    choices=PROTOCOLS,
    help="remote-write's version; 2.0 falls back to 1.0 if the endpoint does not support it",
)
@argh.arg(
    "--interval",
    metavar="DURATION",
    type=command.typed(_duration_s),
    help="time between deliveries; with STORE: do not exit, keep delivering; on standard input: default 10s",
)
@argh.arg(
    "--cursor",
    metavar="NAME",
    type=command.typed(parse_cursor_name),
    help="name of the cursor; each endpoint of a store needs its own (default: prometheus)",
)
@argh.arg(
    "--match",
    metavar="SELECTOR",
    type=command.typed(parse_selector),
    help="send only these series, such as 'vcpu_exits_total{zone=\"a\"}'",
)
@argh.arg(
    "--tier",
    type=int,
    choices=range(MAX_TIERS),
    help="begin with this tier of the store: 0 sends seconds, 1 and 2 send roll-ups only",
)
@argh.arg(
    "--max-age",
    metavar="DURATION",
    type=command.typed(parse_duration),
    help="pass over samples older than this, and count them",
)
@argh.arg("--backfill", help="begin the first delivery with everything in the store, its coarser tiers too")
@argh.arg(
    "--ignore-future",
    help="deliver the current ticks of instances that have delivered times ahead of this clock",
)
@argh.arg("--job", metavar="NAME", type=command.typed(parse_job), help="value of the label 'job'")
@argh.arg(
    "--external-label",
    metavar="NAME=VALUE",
    action="append",
    help="a label for all series that lack it; repeatable",
)
@argh.arg("--basic-auth-file", metavar="FILE", help="file with USER:PASSWORD; read again when it changes")
@argh.arg("--bearer-token-file", metavar="FILE", help="file with the token; read again when it changes")
@argh.arg("--ca-file", metavar="FILE", help="the CA, in PEM, that signed the endpoint's certificate")
@argh.arg("--client-cert", metavar="FILE", help="our certificate, in PEM, with or without the key")
@argh.arg("--client-key", metavar="FILE", help="the key of --client-cert, in PEM, not encrypted")
@argh.arg(
    "--header",
    metavar="LINE",
    action="append",
    help="a header 'NAME: VALUE' for each request, such as 'X-Scope-OrgID: team-a'; repeatable",
)
@argh.arg("--proxy", metavar="URL", help="use this proxy, and ignore HTTP_PROXY, HTTPS_PROXY and NO_PROXY")
@argh.arg(
    "--timeout",
    metavar="DURATION",
    type=command.typed(_duration_s),
    help="time limit of a whole request (default: 30s)",
)
@argh.arg("--wait", help="wait while another rondo-push holds the cursor")
@argh.arg("--dry-run", help="print the samples that would be sent (time, series, value), and send nothing")
@argh.arg(
    "--status",
    help="print how far behind each cursor and each instance is, and which journals each cursor keeps",
)
@argh.arg("--format", choices=("table", "json"), help="format of --status; json: one object a line")
@argh.arg(
    "--drop", help="remove the cursor named by --cursor, so that the store keeps nothing for it; send nothing"
)
@argh.arg("--no-health", help="send only the store's samples, not rondo-push's own metrics")
@argh.arg(
    "--max-samples-per-send",
    metavar="N",
    type=command.typed(partial(parse_count, most=MAX_COUNT)),
    help="most samples in a request; a tick is never split, so a tick with more goes alone",
)
def push(
    store: str | None = None,
    *,
    remote_write: str | None = None,
    protocol: str = V1,
    interval: float | None = None,
    cursor: str | None = None,
    match: Selector | None = None,
    tier: int = 0,
    max_age: int | None = None,
    backfill: bool = False,
    ignore_future: bool = False,
    job: str = "rondo-vmm",
    external_label: list[str] | None = None,
    basic_auth_file: str | None = None,
    bearer_token_file: str | None = None,
    ca_file: str | None = None,
    client_cert: str | None = None,
    client_key: str | None = None,
    header: list[str] | None = None,
    proxy: str | None = None,
    timeout: float = 30.0,
    wait: bool = False,
    dry_run: bool = False,
    status: bool = False,
    format: str = "table",
    drop: bool = False,
    no_health: bool = False,
    max_samples_per_send: int = 10_000,
    **_: object,
) -> None:
    if max(interval or 0, timeout) > LONGEST_S:
        raise UsageError("--interval and --timeout are at most 24h")
    if store is None and (status or dry_run):
        store = default_store()  # these two only read
    if store is None and sys.stdin.isatty():
        raise UsageError(
            "no STORE, and standard input is a terminal: name one, or pipe rondo-store into rondo-push"
        )
    logging.getLogger("urllib3").setLevel(logging.WARNING)  # its debug log shows whole URLs
    external = parse_external(external_label or ())
    known = parse_credentials(
        basic_auth_file=basic_auth_file,
        bearer_token_file=bearer_token_file,
        ca_file=ca_file,
        client_cert=client_cert,
        client_key=client_key,
        header=header or (),
        proxy=proxy,
    )
    from rondo_tools.push.delivery import Delivery

    name = cursor or DEFAULT_CURSOR
    delivery = Delivery(job, external, tier, match, max_age, max_samples_per_send, backfill, ignore_future)
    if format != "table" and not status:
        raise UsageError("--format is for --status")
    if dry_run or status or drop:
        if dry_run + status + drop > 1:
            raise UsageError("--dry-run, --status and --drop exclude each other: choose one")
        if store is None:
            raise UsageError("--drop removes a cursor for good: name its STORE")
        if drop and cursor is None:
            raise UsageError("--drop removes a cursor for good: name it, with --cursor NAME")
        from rondo_tools.store.format.opened import open_store

        found, now_ms = open_store(Path(store)), time.time_ns() // 1_000_000
        if drop:
            from rondo_tools.push.drop import drop as drop_cursor

            drop_cursor(found, name, now_ms)
        elif status:
            _print(_status(delivery, found, name, now_ms, format))
        else:
            _print(_preview(delivery, found, name, now_ms))
        return
    if remote_write is None:
        raise UsageError("--remote-write is missing: write the endpoint's URL")
    from rondo_tools.push.http.endpoint import Endpoint
    from rondo_tools.push.http.negotiate import Negotiator
    from rondo_tools.push.self_metrics import SelfMetrics, Tally
    from rondo_tools.push.service import Stores

    tally = Tally()
    health = None if no_health else SelfMetrics(tally, name, job, external, match)
    with closing(Endpoint(remote_write, timeout, known)) as endpoint:
        open_pusher = partial(delivery.pusher, Negotiator(endpoint, protocol), tally, health)
        if store is not None and interval is None:
            with Stores(name, partial(open_pusher, None), wait=wait) as stores:
                _push_once(stores, Path(store))
            log.debug("%s", tally)
            return
        # A Ctrl-C reaches the whole pipeline: a follower continues to the end of its input.
        stop_on = {signal.SIGTERM} if store is None else {signal.SIGTERM, signal.SIGINT}
        with Wakeup(stop_on=stop_on, let_pass={signal.SIGINT} - stop_on) as wake:
            try:
                with Stores(name, partial(open_pusher, wake), wait=wait) as stores:
                    if store is None:
                        _follow(stores, wake, interval or DEFAULT_INTERVAL_S)
                    else:
                        _push_on(stores, wake, interval or DEFAULT_INTERVAL_S, Path(store))
            finally:
                log.info("%s", tally)


def _status(delivery: Delivery, store: OpenedStore, cursor: str, now_ms: int, format: str) -> Iterator[str]:
    from rondo_tools.push import status
    from rondo_tools.push.cursor import Cursor
    from rondo_tools.view.table import json_lines, table_lines

    cursors = status.cursors(store, now_ms)
    place = Cursor(store.path, cursor, peek=True)
    instances = status.instances(delivery.drain_to_look(store), place.progress, now_ms)
    if format == "json":
        yield from json_lines(cursors)
        yield from json_lines(instances)
        return
    yield from table_lines(cursors, sys.stdout.encoding)
    yield ""
    yield from table_lines(instances, sys.stdout.encoding)


def _preview(delivery: Delivery, store: OpenedStore, cursor: str, now_ms: int) -> Iterator[str]:
    from rondo_tools.push.cursor import Cursor
    from rondo_tools.push.dry_run import dry_run as preview

    place = Cursor(store.path, cursor, peek=True)
    return preview(delivery.drain(store, place), place, now_ms, backfill=delivery.backfill)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _push_once(stores: Stores, store: Path) -> None:
    from rondo_tools.push.cursor import LockedError

    try:
        stores.push(store)
    except LockedError as exc:
        log.debug("%s", exc)  # the other push delivers


def _push_on(stores: Stores, wake: Wakeup, interval_s: float, store: Path) -> None:
    from rondo_tools.push.service import Service

    stores.open(store)  # so that an error of the store ends the command, instead of repeating each interval
    Service(stores, wake, interval_s=interval_s, take=lambda: {store}).run()


def _follow(stores: Stores, wake: Wakeup, interval_s: float) -> None:
    from rondo_tools.push.follow import Follower
    from rondo_tools.push.service import Service

    follower = Follower(sys.stdin.fileno(), on_end=wake.wake)
    follower.start()
    service = Service(
        stores, wake, interval_s=interval_s, take=follower.take, has_ended=lambda: follower.has_ended
    )
    service.run()
    if follower.has_ended and not follower.lines:
        what = "standard input had no line of rondo-store: nothing was delivered"
        if follower.others:
            raise RondoError(what, exit_code=EX_DATAERR)
        log.warning("%s", what)


def make_parser() -> command.Parser:
    """The parser of rondo-push."""
    parser = command.Parser(prog="rondo-push", description=DESCRIPTION)
    parser.set_command(push)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(make_parser(), argv)
