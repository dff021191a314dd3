"""Recovers the live sessions of an earlier process from the carry, and from journals that are not rolled up.

Strategy: one pass over each journal in order. The newest tick of a session is the greatest time of its rows,
so that resent ticks are recognized. Its end is the last one written, unless a row later than a `lost` one
undid it, or the ticks before it are missing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rondo_tools.errors import StoreError
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile, has_no_header
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import LOST, EndRecord, ends_in, sessions_in
from rondo_tools.store.live import Carried, Live, Session, SessionEnd


def recover(live: Live, layout: Layout, journals: Iterable[int], carried: Iterable[Carried]) -> list[str]:
    """Put the sessions in the carry and in these journals into `live`. Gives messages about errors."""
    for record in carried:
        session = live.recover(record)
        session.schema = record.schema
        if session.end is not None:
            live.resumed(session)  # it is remembered as lost, and came back
    troubles = []
    for number in journals:
        try:
            file = FrameFile(layout.file(JOURNALS, number))
        except FileNotFoundError:
            continue
        except StoreError as exc:
            if not has_no_header(layout.file(JOURNALS, number)):
                troubles.append(str(exc))
            continue
        with file:
            _recover_journal(live, file, number)
            if file.damage.bytes:
                troubles.append(
                    f"{file.path}: {file.damage.bytes} bytes are damaged, from {file.damage.first_at} on"
                )
    return troubles


def _recover_journal(live: Live, file: FrameFile, journal: int) -> None:
    sessions: dict[int, Session] = {}
    ends: dict[int, EndRecord] = {}
    newest, schemas = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for _, head, payload in file.frames(kinds=(frames.SCHEMA, frames.SESSION, frames.ROWS, frames.END)):
        if head.kind == frames.SESSION:
            for record in sessions_in(payload):
                sessions[record.number] = live.recover(record)
        elif head.kind == frames.END:
            for end in ends_in(payload):
                ends[end.number] = end
        elif head.kind == frames.ROWS and head.entries:
            # The width comes from the row's size, because the schema may be damaged.
            rows = frames.rows_of(payload, (head.length // head.entries - 12) // 8)
            if head.greatest_session >= len(newest):
                more = np.zeros(head.greatest_session + 1, np.int64)
                newest, schemas = np.concatenate((newest, more)), np.concatenate((schemas, more))
            schemas[rows["session"]] = head.schema
            np.maximum.at(newest, rows["session"], rows["t_ms"])
    for number, session in sessions.items():
        if number < len(newest) and newest[number] > session.last_ms:
            session.last_ms = int(newest[number])
            session.schema = file.schemas.get(int(schemas[number]))
            if session.end is not None:
                live.resumed(session)
        found = ends.get(number)
        if found is None or found.last_ms > session.last_ms:
            continue  # a power cut lost ticks written before it: its producer may send them again
        if found.reason != LOST or found.last_ms == session.last_ms:
            session.end = SessionEnd(found.reason, found.t_ms)
            live.ended(session, journal)
