"""Checking a whole store: each session's description, and its slabs through the reader.

Strategy: folders are looked at, not what `Store.sessions` makes of them, for it leaves out what is
damaged. A session that goes while we look has expired, and is no finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from glob import iglob
from pathlib import Path

from rondo_tools.query.names import word
from rondo_tools.store.reader import Finding, Session, Store, folder_name


class Checker:
    """Checks `store`. `sessions` counts those that were looked at, `findings` what was wrong."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sessions = self.findings = 0

    def lines(self) -> Iterator[str]:
        """One line a finding: the file within the store, a colon, what is wrong with it."""
        for name in sorted(iglob("instances/*/*/session.json", root_dir=self._store.path)):  # noqa: PTH207
            file = self._store.path / name
            found = self._session(file)
            if not file.exists():
                continue
            self.sessions += 1
            self.findings += len(found)
            for path, what in found:
                shown = " ".join(map(word, what.split(" ")))  # no text of the store's misleads a terminal
                yield f"{word(str(path.relative_to(self._store.path)))}: {shown}"

    def _session(self, file: Path) -> list[Finding]:
        try:
            session = Session(file.parent, self._store.tiers)
        except (OSError, ValueError) as exc:
            return [Finding(file, str(exc))]
        found = []
        expected = f"{folder_name(session.instance)}/{session.start_ms}"
        if session.key != expected:
            found.append(Finding(file, f"describes {expected}"))
        return found + session.findings()
