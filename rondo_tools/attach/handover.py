"""Hands the counters over from one watcher to the next.

Strategy: the counters live as long as their descriptors, which systemd keeps for a service, or their files in
a bpf file system. A file (see `kept`) has the sessions. Descriptors of another release, or an incomplete set,
are removed, because they would continue to count for nobody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rondo_tools.attach.counters.bpf import BpfCounters
from rondo_tools.attach.counters.choose import Chosen
from rondo_tools.attach.counters.pins import Pins
from rondo_tools.attach.kept import KeptFile
from rondo_tools.errors import EX_UNAVAILABLE, RondoError
from rondo_tools.sd_notify import Notifier


class Keeper(Protocol):
    """Keeps descriptors by name: systemd, or files of a bpf file system."""

    def store(self, name: str, fd: int) -> None: ...

    def remove(self, name: str) -> None: ...


class Handover:
    """Hands over `pins` if there are any, else systemd's `stored` descriptors."""

    def __init__(self, notifier: Notifier, stored: Mapping[str, int], pins: Pins | None) -> None:
        self._keeper: Keeper = notifier
        self._is_kept = notifier.is_heard
        self.descriptors = stored
        if pins is not None:
            self._let_go(stored)
            self._keeper, self._is_kept, self.descriptors = pins, True, pins.descriptors()

    def keep(self, chosen: Chosen, folder: str) -> KeptFile | None:
        """Keep the counters, and a file in `folder`; None if they cannot be kept. Raises RondoError."""
        counters = chosen.counters if isinstance(chosen.counters, BpfCounters) else None
        taken = counters.descriptors if counters is not None and counters.are_kept else {}
        self._let_go({name: fd for name, fd in self.descriptors.items() if taken.get(name) != fd})
        if counters is None or not folder or not self._is_kept:
            return None
        path = Path(folder)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise RondoError(f"{folder}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
        if not counters.are_kept:
            for name, fd in counters.descriptors.items():
                self._keeper.store(name, fd)
        return KeptFile(path, counters.map_id, chosen.since_boot_s, is_map_kept=counters.are_kept)

    def _let_go(self, descriptors: Mapping[str, int]) -> None:
        """Close and remove them, the program for exits first: see `counters.pins`."""
        for name, fd in sorted(descriptors.items()):
            os.close(fd)
            self._keeper.remove(name)
