"""Which sessions go, and when: those too old, those that `--max-bytes` has no room for, and the
remains of both.

Strategy: a session is removed by its session.json first; without one a folder is no session, so
nobody sees it half removed. What a kill in between leaves is swept later, if it holds nothing but
files of our own. A session that is open is never touched (`room` sees to that); one that may still
be heard of (no end, and written to in the last ten minutes) is never removed for room.

To make room, what every cursor has delivered goes first, oldest first; then the rest, with a count.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

from rondo_tools.errors import StoreError
from rondo_tools.store.reader import Session, Store
from rondo_tools.store.tiers import Tier
from rondo_tools.units import format_duration

log = logging.getLogger(__name__)

SILENT_MS = 600_000  # as long as a producer keeps what it has not delivered
_OUR_FILES = re.compile(r"\.?(session\.json|tier_\d+\.slab)(\.\d+)?")


class Candidate(NamedTuple):
    """A session that may go to make room; they sort in the order in which they do."""

    is_undelivered: bool
    last_ms: int
    session: Session


def expire(store: Path, tiers: tuple[Tier, ...], now_ms: int, remove: Callable[[Path], bool]) -> None:
    """Remove the sessions whose last tick is older than the last tier remembers."""
    span_ms = tiers[-1].span_ms
    horizon_ms = now_ms - span_ms
    for session in Store(store).each_session():
        if _ended_after(session, horizon_ms, now_ms) or _last_ms(session) >= horizon_ms:
            continue
        if remove(session.path):
            log.info("%s: removed, its data is older than %s", session.path, format_duration(span_ms))


def sweep(store: Path, remove: Callable[[Path], None]) -> None:
    """Remove what is left of sessions that were being made or removed when we were killed."""
    for instance in _folders(store / "instances"):
        for folder in _folders(instance):
            if folder.name.isdecimal() and is_left_over(folder):
                remove(folder)


def used(store: Path) -> tuple[int, int]:
    """What the store's files take on the disk, holes not counted, in bytes; and how many instances it has."""
    total = 0
    for folder, _, names in os.walk(store):
        for name in names:
            try:
                total += os.lstat(f"{folder}/{name}").st_blocks * 512
            except OSError:
                continue  # it went meanwhile
    return total, sum(1 for _ in _folders(store / "instances"))


def candidates(store: Path, is_open: Container[str], now_ms: int) -> deque[Candidate]:
    """The sessions that may go to make room, the first to go first."""
    cursors = _cursors(store)
    found = []
    for session in Store(store).sessions():
        if str(session.path) in is_open:
            continue
        if session.end is None and now_ms - _written_ms(session) < SILENT_MS:
            continue
        last_ms = _last_ms(session)
        found.append(Candidate(not _is_delivered(session, last_ms, cursors), last_ms, session))
    return deque(sorted(found, key=lambda candidate: candidate[:2]))


def remove(folder: Path) -> None:
    """Remove a session, and its instance's folder with the last one."""
    (folder / "session.json").unlink()
    remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder, and that of its instance with the last one."""
    shutil.rmtree(folder)
    try:
        folder.parent.rmdir()
    except OSError:
        pass  # the instance has other sessions


def _folders(path: Path) -> Iterator[Path]:
    try:
        with os.scandir(path) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    yield from found


def is_left_over(folder: Path) -> bool:
    """Whether it is no session (any more), and holds nothing but files of ours."""
    with os.scandir(folder) as entries:
        return all(
            entry.name != "session.json"
            and _OUR_FILES.fullmatch(entry.name)
            and entry.is_file(follow_symlinks=False)
            for entry in entries
        )


def _ended_after(session: Session, horizon_ms: int, now_ms: int) -> bool:
    """Whether its end alone says that it is too young to go, which saves a look at its rows."""
    return session.end is not None and horizon_ms <= session.end.t_ms <= now_ms


def _last_ms(session: Session) -> int:
    """When it was last heard of; of one that cannot be read now, when it was last written to."""
    try:
        t_ms = session.rows().t_ms
    except StoreError:
        return max(session.start_ms, _written_ms(session))
    return int(t_ms[-1]) if t_ms.size else session.start_ms


def _written_ms(session: Session) -> int:
    try:
        return (session.path / "tier_0.slab").stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0


Cursor = dict[str, tuple[int, bool]]
"""For each session's key: delivered up to (ms), and whether its end is, too."""


def _cursors(store: Path) -> list[Cursor]:
    """How far each push has come; a cursor that cannot be read has come nowhere, as far as we know."""
    found = []
    for path in sorted(store.glob("cursor_*.json")):
        try:
            marks = json.loads(path.read_bytes())["sessions"]
            found.append(
                {key: (int(mark["delivered_ms"]), bool(mark["ended"])) for key, mark in marks.items()}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            log.warning("%s: cannot be read (%s); nothing counts as delivered by it", path, exc)
            found.append({})
    return found


def _is_delivered(session: Session, last_ms: int, cursors: list[Cursor]) -> bool:
    marks = [cursor.get(session.key, (0, False)) for cursor in cursors]
    return bool(marks) and all(ended or delivered_ms >= last_ms for delivered_ms, ended in marks)
