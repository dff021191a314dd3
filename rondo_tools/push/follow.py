"""Reads rondo-store's watermarks from a pipe: which stores have something new.

    vmm_metrics<TAB>41:123456

A line has a store's folder and the position up to which its journal is written: number and offset.

Strategy: a separate thread only reads, so that a slow endpoint never blocks the writer. It keeps only the
names of the stores, so its memory is bounded; the new ticks are in the journals.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from rondo_tools import foreign

MAX_STORES = 100
_MAX_LINE = 8192  # bytes; longer than any path
_POSITION = re.compile(rb"[0-9]{1,19}:[0-9]{1,19}")

log = logging.getLogger(__name__)


class Follower:
    """Reads lines from a file descriptor until its end, then calls `on_end` in its thread."""

    def __init__(self, fd: int, on_end: Callable[[], None]) -> None:
        self._fd = fd
        self._on_end = on_end
        self._lock = threading.Lock()
        self._named: set[Path] = set()  # since the last `take`
        self.lines = 0  # valid ones
        self.others = 0
        self._stores: set[Path] = set()
        self._has_warned = False
        self._has_ended = threading.Event()

    def start(self) -> None:
        # A daemon, so that a second Ctrl-C ends the process although the pipe is still open.
        threading.Thread(target=self._read, name="follow", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        """Whether the end was read."""
        return self._has_ended.is_set()

    def take(self) -> set[Path]:
        """The stores named since the last call."""
        with self._lock:
            named, self._named = self._named, set()
        return named

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
        folder, _, position = line.rpartition(b"\t")
        if len(line) > _MAX_LINE or not folder or not _POSITION.fullmatch(position) or b"\0" in folder:
            kind = foreign.kind_of(line)
            if kind == foreign.STREAM:
                what = f"this is {kind}; pipe it into rondo-store, and rondo-store's lines into rondo-push"
            else:
                what = f"this is not a line of rondo-store, and is ignored: {line[:80]!r}"
            self.others += 1
            self._warn(what)
            return
        self.lines += 1
        store = Path(os.fsdecode(folder))
        if store not in self._stores:
            if len(self._stores) >= MAX_STORES:
                self._warn(f"more than {MAX_STORES} stores in one pipe: {store} is not followed")
                return
            self._stores.add(store)
        with self._lock:
            self._named.add(store)

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("standard input: %s", what)
