"""Turns stored sessions back into a stream: headers, all ticks that the store still has, and ends.

Strategy: write whole messages, one session after another, so that a reader may stop anywhere and get the
whole stream again. The series of a session without ticks are not known, so it has no stream. If the series
changed, another header follows, as from its producer. Rows that only the coarser tiers have are no ticks;
they are left out and counted.
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
    """The stream of `sessions`, a piece for each readable one; at the end, logs what is left out."""
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
            "left out: %s of %s, older than the last ten minutes; the store has at most coarser rows of "
            "these, which are not in a stream",
            counted(missing, "tick"),
            counted(incomplete, "session"),
        )


def _header(session: Session, series: tuple[Series, ...]) -> Header:
    return Header(session.instance, session.start_ms, session.labels, session.interval_ms, series)
