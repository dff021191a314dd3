"""Removes a cursor: the store keeps no journals for it any more, and its next push begins again.

Strategy: hold the cursor's lock, so that no push uses it. The lock file stays: otherwise a waiting push
would lock a removed file. If a batch is in flight, the log has its samples, because only the cursor knows
it.
"""

from __future__ import annotations

import logging
import os

from rondo_tools import files
from rondo_tools.errors import EX_UNAVAILABLE, PushError
from rondo_tools.push.cursor import Cursor, InFlight, LockedError, lock
from rondo_tools.push.split import count
from rondo_tools.store.format.cursors import find_cursors
from rondo_tools.store.format.opened import OpenedStore
from rondo_tools.units import format_count
from rondo_tools.view.delivery import held

log = logging.getLogger(__name__)


def drop(store: OpenedStore, name: str, now_ms: int) -> None:
    """Remove a cursor. Raises PushError: LockedError (75) if a push holds it, 69 if there is none."""
    path = store.layout.cursor(name)
    if not path.exists():
        there = store.layout.cursors()
        what = f"there are: {', '.join(there)}" if there else "there are no others"
        raise PushError(f"{store.path}: no cursor {name!r}; {what}", exit_code=EX_UNAVAILABLE)
    try:
        fd = lock(store.layout, name)
    except LockedError as exc:
        raise LockedError(f"{exc}: stop it first") from None
    try:
        kept = _kept(store, name, now_ms)
        in_flight = _in_flight(store, name)
        try:
            path.unlink(missing_ok=True)
            files.sync_folder(path.parent)
        except OSError as exc:
            raise PushError(f"{path}: cannot be removed: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    finally:
        os.close(fd)
    log.info("%s: removed; it kept %s. A push with --cursor %s begins again", path, kept, name)
    if in_flight:
        log.warning("%s: %s", path, in_flight)


def _kept(store: OpenedStore, name: str, now_ms: int) -> str:
    state = store.state()
    for one in find_cursors(store.layout, store.store_id):
        if one.name == name:
            return str(held(store, state, one, now_ms))
    return "nothing"


def _in_flight(store: OpenedStore, name: str) -> str:
    """A warning about the batch in flight; empty if there is none."""
    try:
        in_flight = Cursor(store.path, name, peek=True).in_flight
    except PushError:
        return "it could not be read, so it is not known whether a batch was in flight"
    return "" if in_flight is None else _named(in_flight)


def _named(in_flight: InFlight) -> str:
    requests = [piece.request for piece in in_flight.pieces]
    times = [
        sample.timestamp for request in requests for series in request.timeseries for sample in series.samples
    ]
    samples = format_count(sum(map(count, requests)), "sample")
    return (
        f"a batch was in flight: {samples}, from {min(times)} to {max(times)} ms. Whether the endpoint has "
        "them is not known, and rondo-push will not find out any more"
    )
