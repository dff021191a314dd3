"""`status`: the health of a store, on one page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import argh

from rondo_tools import clock, command
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, RondoError
from rondo_tools.units import format_count, format_duration, format_size, parse_duration

if TYPE_CHECKING:
    from rondo_tools.view.health import Health

HELP = """\
Show the health of the store: its writer, its VMs in the last hour, its disk, refused ticks, damage, and how
far behind each delivery is.

  rondo-query vmm_metrics status
  rondo-query vmm_metrics status --max-behind 60s || alert     # for monitoring
  rondo-query vmm_metrics status --format json | jq '.cursors[] | select(.behind_s > 60)'

With --max-behind the exit status is 75 if a delivery is further behind, or if that is not known, and 69 if
the store has no cursor. rondo-push --drop removes a cursor that is not needed any more.
"""


@argh.arg(
    "--max-behind",
    type=command.typed(parse_duration),
    metavar="DURATION",
    help="exit with status 75 if a delivery is further behind, such as 60s",
)
@argh.arg("--format", choices=("table", "json"), default="table", help="json: one object")
def status(**flags: Any) -> None:
    from rondo_tools.view.health import health

    now_ms = clock.now_ms()
    found = health(Path(flags["store"]), now_ms)
    if flags["format"] == "json":
        print(json.dumps(_document(found, flags["store"], now_ms)))
    else:
        for line in _page(found, flags["store"], now_ms):
            print(line)
    if flags["max_behind"] is not None:
        _check(found, flags["max_behind"])


def _check(found: Health, most_ms: int) -> None:
    if not found.deliveries:
        raise RondoError("--max-behind: the store has no cursor", exit_code=EX_UNAVAILABLE)
    late = [one for one in found.deliveries if one.behind_ms is None or one.behind_ms > most_ms]
    if late:
        named = (f"{one.cursor} {_behind(one.behind_ms)}" for one in late)
        raise RondoError(
            f"more than {format_duration(most_ms)} behind: {', '.join(named)}", exit_code=EX_TEMPFAIL
        )


def _behind(ms: int | None) -> str:
    return "(not known)" if ms is None else f"({ms / 1000:.1f} s)"


def _page(found: Health, store: str, now_ms: int) -> list[str]:
    from rondo_tools.query.names import word
    from rondo_tools.view.delivery import columns_of
    from rondo_tools.view.health import RECENT_MS
    from rondo_tools.view.table import table_lines

    states = ", ".join(f"{count} {word(state)}" for state, count in found.states.items()) or "none"
    newest = f"the newest tick {_ago(now_ms - found.newest_ms)}" if found.newest_ms else "no tick"
    bound = found.counts.get("store_max_bytes")
    most = f" of at most {format_size(int(bound))}" if bound else ""
    lines = [
        ("store", word(store)),
        ("writer", _writer(found, now_ms)),
        (f"VMs, {format_duration(RECENT_MS)}", f"{states}; {newest}"),
        ("disk", f"{format_size(found.used_bytes)}{most}; {format_size(found.free_bytes)} free"),
        ("ticks", _ticks(found)),
        ("evicted", _evicted(found)),
        ("damage", "none found" if not found.damage else format_count(len(found.damage), "place")),
        *(("", word(one)) for one in found.damage[:10]),
    ]
    page = [f"{name:<9}  {text}".rstrip() for name, text in lines]
    if not found.deliveries:
        return [*page, "delivery   none: the store has no cursor, and no push has delivered from it"]
    return [*page, "", *table_lines(columns_of(found.deliveries), sys.stdout.encoding)]


def _writer(found: Health, now_ms: int) -> str:
    writer = found.writer
    if writer.is_alive:
        return f"process {writer.pid}"
    written = f"; last written to {_ago(now_ms - writer.written_ms)}" if writer.written_ms else ""
    return f"{'none' if writer.is_alive is False else 'not visible from here'}{written}"


def _ticks(found: Health) -> str:
    counts = _own_ticks(found)
    if not counts:
        return "unknown: no rondo-store has served it in the last hour"
    since = "since the store's start"
    return ", ".join(f"{count:,} {result}" for result, count in counts.items()) + f" {since}"


def _own_ticks(found: Health) -> dict[str, int]:
    results = ("stored", "late", "ahead", "expired")
    names = {result: f'store_ticks_total{{result="{result}"}}' for result in results}
    return {result: int(found.counts[name]) for result, name in names.items() if name in found.counts}


def _evicted(found: Health) -> str:
    if not found.evictions:
        return "nothing"
    files = format_count(len(found.evictions), "file")
    undelivered = sum(not one.delivered for one in found.evictions)
    size = format_size(sum(one.bytes for one in found.evictions))
    return f"{files}, {size}" + (f", {undelivered} not delivered by every push" if undelivered else "")


def _ago(ms: int) -> str:
    return f"{ms / 1000:.1f} s ago" if ms >= 0 else f"{-ms / 1000:.1f} s ahead of this clock"


def _document(found: Health, store: str, now_ms: int) -> dict[str, Any]:
    from rondo_tools.view.delivery import columns_of
    from rondo_tools.view.table import iso, seconds

    columns = columns_of(found.deliveries)
    return {
        "store": store,
        "time": iso(now_ms),
        "writer": {"alive": found.writer.is_alive, "pid": found.writer.pid},
        "written": iso(found.writer.written_ms),
        "vms": found.states,
        "newest": iso(found.newest_ms),
        "newest_age_s": seconds(now_ms - found.newest_ms) if found.newest_ms else None,
        "used_bytes": found.used_bytes,
        "max_bytes": int(found.counts["store_max_bytes"]) if "store_max_bytes" in found.counts else None,
        "free_bytes": found.free_bytes,
        "ticks": _own_ticks(found) or None,
        "evicted_files": len(found.evictions),
        "evicted_undelivered_files": sum(not one.delivered for one in found.evictions),
        "damage": found.damage,
        "cursors": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }
