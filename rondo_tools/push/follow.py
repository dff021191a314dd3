"""rondo-store's lines on a pipe: which sessions of which stores have something new.

    vmm_metrics/instances/vm-1/1732300000123<TAB>1732300044000

A session's folder, and the time up to which its slots are closed.

Strategy: a thread of its own does nothing but read, so that whoever writes is never held up by a
slow endpoint. It keeps the newest time of each session, and so a bounded amount, whatever is
written; what is lost to a bound is a hint, never data: the store has it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

MAX_SESSIONS = 100_000  # of all stores, between two pushes
MAX_STORES = 100
_MAX_LINE = 8192  # bytes; longer than any path

Closed = dict[Path, dict[str, int]]
"""For each store, for each session's key: every slot up to this time (ms) is closed."""

log = logging.getLogger(__name__)


class Follower:
    """Reads lines from a file descriptor until it ends, calling `on_end` from its thread then."""

    def __init__(self, fd: int, on_end: Callable[[], None]) -> None:
        self._fd = fd
        self._on_end = on_end
        self._lock = threading.Lock()
        self._closed: Closed = {}
        self._sessions = 0
        self.lines = 0  # how many were understood
        self._stores: set[Path] = set()
        self._has_warned = False
        self._has_ended = threading.Event()

    def start(self) -> None:
        # A daemon: at a second Ctrl-C the process ends although the pipe is still open.
        threading.Thread(target=self._read, name="follow", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        """Whether all there is to read was read."""
        return self._has_ended.is_set()

    def take(self) -> Closed:
        """What the lines since the last call said."""
        with self._lock:
            closed, self._closed, self._sessions = self._closed, {}, 0
        return closed

    def _read(self) -> None:
        rest = b""
        try:
            while data := os.read(self._fd, 1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _MAX_LINE:
                    rest = rest[:_MAX_LINE] + b"\t"  # too long to be understood, whatever follows
                for line in lines:
                    self._line(line)
            if rest:
                self._line(rest)
        except OSError as exc:
            log.warning("standard input: %s", exc.strerror)
        finally:
            self._has_ended.set()
            self._on_end()

    def _line(self, line: bytes) -> None:
        folder, _, time = line.partition(b"\t")
        path = Path(os.fsdecode(folder))
        if (
            len(line) > _MAX_LINE
            or not (time.isdigit() and len(time) < 17)
            or len(path.parts) < 3
            or path.parts[-3] != "instances"
            or b"\0" in folder
        ):
            self._warn(f"this is no line of rondo-store's and is ignored: {line[:80]!r}")
            return
        self._note(path.parents[2], f"{path.parent.name}/{path.name}", int(time))

    def _note(self, store: Path, session: str, closed_ms: int) -> None:
        self.lines += 1
        if store not in self._stores:
            if len(self._stores) >= MAX_STORES:
                self._warn(f"more than {MAX_STORES} stores in one pipe: {store} is not followed")
                return
            self._stores.add(store)
        with self._lock:
            sessions = self._closed.setdefault(store, {})
            if session not in sessions:
                if self._sessions >= MAX_SESSIONS:
                    return  # the store is known, which is what matters
                self._sessions += 1
            sessions[session] = max(closed_ms, sessions.get(session, 0))

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("standard input: %s", what)
