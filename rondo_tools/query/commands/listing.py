"""`list`: lists the sessions, and how they ended."""

from __future__ import annotations

import gc
import sys
from typing import Any

import argh

from rondo_tools import clock, command
from rondo_tools.errors import RondoError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store

HELP = """\
One line for each session, which is one life of an instance, by start:

  instance  session  first  last  state  age_s  series  ticks

On a terminal the table is narrower: instance, state, start, how long it lived, when it was last seen, ticks.
--wide, --unix and --format print the whole table there too, as in a pipe.

session is its start, first and last are its oldest and newest tick, age_s is the seconds since the last.
state is its end (poweroff, reset, shutdown, deadline, signal, error, gone, clock, or lost: the store ended
it, until it comes back), or running, or silent: no end, and no tick for three intervals and five seconds,
or the last tick as far ahead of the clock (then age_s is negative). series and ticks count all that it ever
had; the tiers decide how many ticks the store still has.

  rondo-query vmm_metrics list --state silent,lost --since 1h
  rondo-query vmm_metrics list --match '{instance=~"vm-.*"}' -n 20
  rondo-query vmm_metrics list --match vm-1
  rondo-query vmm_metrics list --sort ticks --reverse | head
"""


@argh.arg("--match", metavar="SELECTOR", help="only sessions with a matching series: '{instance=~\"vm-.*\"}'")
@argh.arg(
    "--since",
    metavar="DURATION|TIME",
    help="only sessions that lived since then: 10m, 14:12, 'yesterday 3:00', or another time as for read",
)
@argh.arg(
    "--state",
    type=command.typed(share.states),
    metavar="STATE[,...]",
    help="only sessions in these states: running, silent, or an end: poweroff, lost, ...",
)
@argh.arg("-n", type=command.typed(share.count), metavar="N", help="only the N newest of these")
@argh.arg("--sort", metavar="FIELD", default="session", help="order by a field of the list")
@argh.arg("--reverse", action="store_true", default=False, help="from the largest down")
@share.format_or_page
@share.times
def list_sessions(**flags: Any) -> None:
    gc.disable()  # 100,000 sessions have no garbage, and looking for it takes as long as all the rest
    from rondo_tools.query import evicted, life, output, people
    from rondo_tools.query.damage import EX_NOTHING, Damage
    from rondo_tools.query.face import UNIX, face
    from rondo_tools.query.page import page
    from rondo_tools.query.times import Span, parse_since
    from rondo_tools.view.cells import style_of

    now_ms = clock.now_ms()
    since_ms = 0 if flags["since"] is None else parse_since(flags["since"], now_ms, utc=flags["utc"])
    log_face = face(sys.stderr, utc=flags["utc"])
    store, wanted = open_store(flags["store"], "{}" if flags["match"] is None else flags["match"])
    order = life.Order(flags["sort"], reverse=flags["reverse"])
    if flags["match"] is None:
        sessions = list(store.each_session(since_ms=since_ms))
    else:
        sessions = [match.session for match in find(store, wanted, since_ms)]
    what = ["no session"]
    if since_ms:
        sessions = life.alive_since(sessions, since_ms, now_ms)
        what.append(f"that was alive since {log_face.time(since_ms)}")
    if flags["state"] is not None:
        sessions = life.in_state(sessions, flags["state"], now_ms)
        what.append(f"that is {' or '.join(sorted(flags['state']))}")
    damage = Damage(store)
    evicted.warn(store, Span(since_ms or None, None), range(len(store.tiers)), log_face)
    if not sessions and len(what) > 1:
        damage.finish()
        raise RondoError(" ".join(what), exit_code=EX_NOTHING)
    sessions = life.newest(sessions, flags["n"])
    shown, times = page(sys.stdout, flags), share.face(sys.stdout, flags)
    columns = order.sorted(life.lives(sessions, now_ms, UNIX if shown else times))
    if shown is None:
        output.write_columns(sys.stdout, flags["format"] or "table", columns)
    else:
        print(
            *shown.lines(people.columns(columns, times, shown), [style_of(one) for one in columns["state"]]),
            sep="\n",
        )
    damage.finish()
