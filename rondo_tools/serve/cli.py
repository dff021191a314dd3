"""The command line of rondo-serve.

Modules that read the store are imported late, so that --help is quick.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial

import argh

from rondo_tools import command
from rondo_tools.errors import UsageError
from rondo_tools.prom.labels import parse_external, parse_job
from rondo_tools.signals import Signals
from rondo_tools.units import parse_count

log = logging.getLogger(__name__)

DEFAULT_MAX_SAMPLES = 5_000_000

DESCRIPTION = """\
Show a store live in a browser, and let Prometheus query it in place. Read-only.

  rondo-serve vmm_metrics --listen tcp:127.0.0.1:9464
  rondo-serve /var/lib/rondo/vmm_metrics --listen unix:/run/rondo-serve/http.sock

  /                    the live page
  /api/v1/read         Prometheus' remote_read
  /federate?match[]=   the last tick of each running VM, as text
  /metrics /health /info

It listens on a Unix socket or on loopback. Any other address needs --token-file: clients send the token
as 'Authorization: Bearer', or as the password of Basic. TLS needs a proxy (docs/serve.md).
"""


@argh.arg("store", metavar="STORE", help="the folder that rondo-store writes")
@argh.arg(
    "--listen",
    action="append",
    metavar="ADDRESS",
    help="where to serve: unix:PATH or tcp:HOST:PORT; repeatable",
)
@argh.arg(
    "--socket-group", metavar="GROUP", help="the group that may connect to unix:PATH, besides the owner"
)
@argh.arg("--token-file", metavar="FILE", help="a file with the token of clients, read again when it changes")
@argh.arg(
    "--allow-host",
    action="append",
    metavar="NAME",
    help="accept requests over TCP for this host name, besides localhost; repeatable",
)
@argh.arg("--job", metavar="NAME", type=command.typed(parse_job), help="value of the label 'job'")
@argh.arg(
    "--external-label",
    metavar="NAME=VALUE",
    action="append",
    help="a label for all series without it, as in rondo-push; repeatable",
)
@argh.arg(
    "--max-samples",
    metavar="N",
    type=command.typed(partial(parse_count, most=1_000_000_000)),
    help="refuse a remote-read request with more samples",
)
def rondo_serve(
    store: str,
    *,
    listen: list[str] | None = None,
    socket_group: str | None = None,
    token_file: str | None = None,
    allow_host: list[str] | None = None,
    job: str = "rondo-vmm",
    external_label: list[str] | None = None,
    max_samples: int = DEFAULT_MAX_SAMPLES,
) -> None:
    from rondo_tools.listeners import inherited
    from rondo_tools.listeners import listen as listen_at
    from rondo_tools.sd_notify import Notifier
    from rondo_tools.serve import memory
    from rondo_tools.serve.access import Access, TokenFile, parse_host
    from rondo_tools.serve.live import FORGET_S
    from rondo_tools.serve.server import Server
    from rondo_tools.serve.site import Site
    from rondo_tools.serve.timelines import Naming

    memory.keep_little()
    external = parse_external(external_label or ())
    hosts = [parse_host(host) for host in allow_host or ()]
    token = None if token_file is None else TokenFile(token_file)
    with ExitStack() as opened:
        signals = opened.enter_context(Signals())
        handed_over = inherited()
        if not handed_over and not listen:
            raise UsageError("--listen is missing: write --listen tcp:127.0.0.1:9464, or unix:PATH")
        if socket_group is not None and not listen:
            raise UsageError("--socket-group is for --listen unix:PATH")
        site = Site(store, Naming(job, external), Access(token, hosts), max_samples=max_samples)
        listeners = handed_over + [listen_at(address, socket_group) for address in listen or ()]
        for listener in listeners:
            opened.callback(listener.close)
            if not listener.is_guarded and token is None:
                raise UsageError(
                    f"--listen {listener.name}: other hosts can reach this address; give --token-file, or "
                    "listen on 127.0.0.1 or a Unix socket"
                )
        server = opened.enter_context(closing(Server(listeners, site.handle)))
        site.connections = lambda: server.connections
        for listener in listeners:
            log.info("serving %s at %s", store, listener.name)
        notifier = Notifier()

        def each_time() -> None:
            notifier.alive()
            if site.live.forget():
                memory.give_back()

        notifier.ready()
        try:
            server.run(signals, min(notifier.alive_every_s or FORGET_S, FORGET_S), each_time)
        finally:
            notifier.stopping()


def make_parser() -> command.Parser:
    """The parser of rondo-serve."""
    parser = command.Parser(prog="rondo-serve", description=DESCRIPTION)
    parser.set_command(rondo_serve)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run rondo-serve with `argv` (default: the process' arguments). Returns the exit status."""
    return command.run(make_parser(), sys.argv[1:] if argv is None else argv)
