"""A stored session as the stream it came from: header, the ticks of tier 0, and its end if it has one.

Strategy: whole messages, one session after another, so that what reads it may stop anywhere and be
given all of it again. What only the coarser tiers still hold is no tick, and is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rondo_tools.errors import StoreError
from rondo_tools.query.damage import Damage
from rondo_tools.store.reader import Session
from rondo_tools.stream import Tick, encode


def messages(sessions: Sequence[Session], damage: Damage) -> Iterator[bytes]:
    """The stream of `sessions`, a piece for each that can be read."""
    for session in sessions:
        try:
            rows = session.rows(0)
        except StoreError as exc:
            damage.unread(session, exc)
            continue
        damage.torn(session, rows)
        ticks = zip(rows.t_ms.tolist(), rows.values.astype("<f8", copy=False), strict=True)
        yield b"".join(
            [
                encode(session.header),
                *(encode(Tick(t_ms, values.tobytes())) for t_ms, values in ticks),
                *([encode(session.end)] if session.end is not None else []),
            ]
        )
