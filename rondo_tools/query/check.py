"""Checks a whole store, and prints lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from rondo_tools.query.names import counted, word
from rondo_tools.store.reader import Store


class Checker:
    """Checks `store`, and counts sessions, files and findings."""

    def __init__(self, store: Store) -> None:
        self._checker = store.checker()
        self._path = store.path
        self._findings = 0

    @property
    def is_good(self) -> bool:
        return not self._findings

    def __str__(self) -> str:
        """``2 findings in 3 sessions, 9 files``."""
        found = counted(self._findings, "finding") if self._findings else "nothing wrong"
        sessions, files = self._checker.sessions, self._checker.files
        return f"{found} in {counted(sessions, 'session')}, {counted(files, 'file')}"

    def lines(self) -> Iterator[str]:
        """One line per finding: the file within the store, a colon, the damage."""
        for finding in self._checker.findings():
            self._findings += 1
            path = word(str(finding.path.relative_to(self._path)))
            yield f"{path}: {' '.join(map(word, finding.what.split(' ')))}"  # nothing misleads a terminal
