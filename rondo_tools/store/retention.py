"""Which sessions go, and when: those too old, those that `--max-bytes` has no room for, and the
remains of both.

Strategy: a session is removed by its session.json first; without one a folder is no session, so
nobody sees it half removed. What a kill in between leaves is swept later, if it holds nothing but
files of our own. A session that is open is never touched; one that may still be heard of (no end,
and written to in the last ten minutes) is never removed for room.

To make room, what every cursor has delivered goes first, oldest first; then the rest, with a count.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from rondo_tools.errors import StoreError
from rondo_tools.store.reader import Session, Store
from rondo_tools.store.tiers import Tier
from rondo_tools.units import format_duration, format_size

log = logging.getLogger(__name__)

SILENT_MS = 600_000  # as long as a producer keeps what it has not delivered
_OUR_FILES = re.compile(r"\.?(session\.json|tier_\d+\.slab)(\.\d+)?")


def expire(store: Path, tiers: tuple[Tier, ...], is_open: Collection[Path], now_ms: int) -> None:
    """Remove the sessions whose last tick is older than the last tier remembers."""
    span_ms = tiers[-1].span_ms
    horizon_ms = now_ms - span_ms
    for session in Store(store).sessions():
        if session.path in is_open or _ended_after(session, horizon_ms, now_ms):
            continue
        if _last_ms(session) < horizon_ms:
            log.info(
                "%s: removed, its data is older than %s", session.path, format_duration(tiers[-1].span_ms)
            )
            remove(session.path)


def sweep(store: Path, is_open: Collection[Path]) -> None:
    """Remove what is left of sessions that were being made or removed when we were killed."""
    for instance in _folders(store / "instances"):
        for folder in _folders(instance):
            if folder.name.isdecimal() and folder not in is_open and _is_left_over(folder):
                log.debug("%s: left over, removed", folder)
                _remove_folder(folder)


def used_bytes(store: Path) -> int:
    """What the store's files take on the disk, holes not counted."""
    total = 0
    for folder, _, names in os.walk(store):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_blocks * 512
            except OSError:
                continue  # it went meanwhile
    return total


def make_room(store: Path, max_bytes: int, is_open: Collection[Path], now_ms: int) -> int:
    """Remove sessions until the store takes at most `max_bytes`, or none is left that may go.

    Returns what it takes then.
    """
    used = used_bytes(store)
    if used <= max_bytes:
        return used
    cursors = _cursors(store)
    candidates = []
    for session in Store(store).sessions():
        if session.path in is_open or (session.end is None and now_ms - _written_ms(session) < SILENT_MS):
            continue
        last_ms = _last_ms(session)
        candidates.append((not _is_delivered(session, last_ms, cursors), last_ms, session))
    candidates.sort(key=lambda item: item[:2])
    undelivered = 0
    for is_undelivered, _, session in candidates:
        if used <= max_bytes:
            break
        used -= session.bytes_on_disk()
        undelivered += is_undelivered
        log.info("%s: removed, for the room that --max-bytes gives", session.path)
        remove(session.path)
    if undelivered:
        log.warning(
            "--max-bytes %s: %d sessions had to go that no push had delivered in full",
            format_size(max_bytes),
            undelivered,
        )
    return used


def remove(folder: Path) -> None:
    """Remove a session, and its instance's folder with the last one."""
    (folder / "session.json").unlink()
    _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
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


def _is_left_over(folder: Path) -> bool:
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
