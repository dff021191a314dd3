"""A stored session as the stream it came from: headers, all ticks that are still there, and its end.

Strategy: whole messages, one session after another, so that what reads it may stop anywhere and be
given all of it again. Of a session of which no tick is left nobody knows the series: it has no stream.
Where the series changed, a header says so, as its producer's did. What only
the coarser tiers still hold is no tick, and is not in it; how much that is, is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from rondo_tools.catalog import Series
from rondo_tools.errors import StoreError
from rondo_tools.query.damage import Damage
from rondo_tools.query.names import counted
from rondo_tools.store.reader import Session
from rondo_tools.stream import Header, Tick, encode

log = logging.getLogger(__name__)


def messages(sessions: Sequence[Session], damage: Damage) -> Iterator[bytes]:
    """The stream of `sessions`, a piece for each that can be read; then what it left out is logged."""
    missing = incomplete = 0
    for session in sessions:
        pieces: list[bytes] = []
        ticks = 0
        try:
            for run in session.runs():
                pieces.append(encode(_header(session, run.schema.series)))
                rows = zip(run.t_ms.tolist(), run.values.astype("<f8", copy=False), strict=True)
                pieces += [encode(Tick(t_ms, values.tobytes())) for t_ms, values in rows]
                ticks += run.t_ms.size
        except StoreError as exc:
            damage.unread(session, exc)
            continue
        if pieces and session.end is not None:
            pieces.append(encode(session.end))
        if ticks < session.ticks:
            incomplete += 1
            missing += session.ticks - ticks
        yield b"".join(pieces)
    if missing:
        log.warning(
            "left out: %s of %s, older than the last ten minutes; of these there are coarser rows at most, "
            "which are no stream",
            counted(missing, "tick"),
            counted(incomplete, "session"),
        )


def _header(session: Session, series: tuple[Series, ...]) -> Header:
    return Header(session.instance, session.start_ms, session.labels, session.interval_ms, series)
