"""The health of a store, from files that any reader may read: its writer, its VMs, its disk, its deliveries.

Strategy: lock nothing: even a brief shared lock could keep a rondo-store from starting. /proc/locks has the
process that holds the writer's lock, within our own process namespace. A store that serves stores its own
metrics as an instance.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.opened import open_store
from rondo_tools.store.reader import Eviction, Session, Store
from rondo_tools.view.delivery import Delivery, deliveries
from rondo_tools.view.state import running_or_silent

OWN = "rondo-store"  # the instance of the store's own metrics
RECENT_MS = 3_600_000
_WRITTEN_MS = 30_000  # a store that serves writes a tick of its own each second
_PREFIX = "store_"


class Writer(NamedTuple):
    """The store's writer. `is_alive` is None if none is visible, but the store was written recently."""

    is_alive: bool | None
    pid: int | None
    written_ms: int  # the last write to the newest journal; 0: there is none


class Health(NamedTuple):
    """`states` counts the VMs of the last RECENT_MS by state; `counts` are the store's own metrics, by
    series, empty if there are none. `damage` lists the places that could not be read."""

    writer: Writer
    states: dict[str, int]
    newest_ms: int
    used_bytes: int
    free_bytes: int
    counts: dict[str, float]
    damage: list[str]
    evictions: list[Eviction]
    deliveries: list[Delivery]


def health(path: Path, now_ms: int, proc: Path = Path("/proc")) -> Health:
    """The health of the store at `path`. Raises StoreError."""
    opened, store = open_store(path), Store(path)
    sessions = list(store.each_session(since_ms=now_ms - RECENT_MS))
    own = [session for session in sessions if session.instance == OWN]
    vms = [session for session in sessions if session.instance != OWN]
    states = Counter(
        vm.reason or running_or_silent(vm.interval_ms, now_ms - (vm.last_ms or vm.start_ms)) for vm in vms
    )
    disk = os.statvfs(path)
    counts = _counts(max(own, key=lambda session: session.start_ms)) if own else {}
    found = deliveries(opened, now_ms)
    damage = [f"{path}: byte {at}: {what}" for path, at, what in store.damaged()]
    damage += [f"{path}: {why}" for path, why in store.unread.items()]
    return Health(
        find_writer(opened.layout, now_ms, proc),
        dict(sorted(states.items(), key=lambda pair: (-pair[1], pair[0]))),
        max((session.last_ms for session in sessions), default=0),
        opened.layout.used_bytes(),
        disk.f_bavail * disk.f_frsize,
        counts,
        damage,
        store.evictions,
        found,
    )


def find_writer(layout: Layout, now_ms: int, proc: Path = Path("/proc")) -> Writer:
    written_ms = _written_ms(layout)
    try:
        inode = layout.lock.stat()
        locks = (proc / "locks").read_text().splitlines()
    except OSError:
        return Writer(None, None, written_ms)
    file = f"{os.major(inode.st_dev):02x}:{os.minor(inode.st_dev):02x}:{inode.st_ino}"
    for line in locks:
        match line.split():  # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
            case [_, "FLOCK", _, "WRITE", pid, held, *_] if held == file:
                return Writer(True, int(pid), written_ms)
    is_recent = abs(now_ms - written_ms) < _WRITTEN_MS
    return Writer(None if is_recent else False, None, written_ms)


def _written_ms(layout: Layout) -> int:
    try:
        newest = layout.numbers(JOURNALS)[-1]
        return layout.file(JOURNALS, newest).stat().st_mtime_ns // 1_000_000
    except (IndexError, OSError):
        return 0


def _counts(session: Session) -> dict[str, float]:
    """The last values of the store's own session."""
    rows = session.rows(0, session.last_ms - 1)
    if not rows.t_ms.size:
        return {}
    names = [str(one) for one in session.header.series]
    values = dict(zip(names, rows.values[-1].tolist(), strict=True))
    return {name: value for name, value in values.items() if name.startswith(_PREFIX)}
