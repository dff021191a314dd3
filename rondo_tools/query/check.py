"""Checking a whole store: each session's description, and its slabs through the reader.

Strategy: folders are looked at, not what `Store.sessions` makes of them, for it leaves out what is
damaged. A session that goes while we look has expired, and is no finding. What cannot be looked at may
be damaged or not: it is reported, and counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rondo_tools.query.names import counted, word
from rondo_tools.store.reader import Finding, Session, Store, finding_of, folder_name, folders_of_sessions


class Checker:
    """Checks `store`, counting what it looks at and what it finds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions = self._findings = self._unread = 0
        self.is_good = True

    def __str__(self) -> str:
        """``2 findings in 3 sessions, 1 path that cannot be read``."""
        found = counted(self._findings, "finding") if self._findings or self._unread else "nothing wrong"
        unread = f", {counted(self._unread, 'path')} that cannot be read" if self._unread else ""
        return f"{found} in {counted(self._sessions, 'session')}{unread}"

    def lines(self) -> Iterator[str]:
        """One line a finding: the file within the store, a colon, what is wrong with it."""
        unread: list[Finding] = []
        folders = folders_of_sessions(
            self._store.path, lambda folder, exc: unread.append(finding_of(Path(folder), exc))
        )
        paths = sorted(folders)
        yield from map(self._line, unread)
        for path in paths:
            try:
                session = Session(Path(path), self._store.tiers)
                found = self._session(session)
                if session.is_gone():
                    continue
            except (FileNotFoundError, NotADirectoryError):
                continue  # it has expired, or never was one
            except OSError as exc:
                found = [finding_of(Path(path, "session.json"), exc)]
            except ValueError as exc:
                found = [Finding(Path(path, "session.json"), str(exc))]
            self._sessions += 1
            yield from map(self._line, found)

    def _line(self, finding: Finding) -> str:
        self.is_good = False
        self._unread += finding.is_unread
        self._findings += not finding.is_unread
        path = word(str(finding.path.relative_to(self._store.path)))
        return f"{path}: {' '.join(map(word, finding.what.split(' ')))}"  # nothing misleads a terminal

    def _session(self, session: Session) -> list[Finding]:
        found = []
        expected = f"{folder_name(session.instance)}/{session.start_ms}"
        if session.key != expected:
            found.append(Finding(session.path / "session.json", f"describes {expected}"))
        return found + session.findings()
