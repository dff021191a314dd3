"""Forgets sessions in all files of a store.

Strategy: each file is rewritten by its own content alone, so an interrupted job is completed by repeating it.
First the carry is replaced, and state.json names the new one: from then on no derived file is continued,
because its declarations may lose their names. Then descriptions, so that no reader finds a session without
its rows; then journals, and the rows that were made of them.

Journals after `upto` have later data, and are not changed. The caller holds the store's lock, and rolls up
and removes nothing meanwhile.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from rondo_tools import files
from rondo_tools.errors import RondoError, StoreError
from rondo_tools.selector import Selector, parse_selector
from rondo_tools.store.carry import Carry, OpenFile, parse_carry
from rondo_tools.store.forget.rewrite import Survey, rewrite, survey
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import Labels, SessionKey
from rondo_tools.store.format.rollup import Flags
from rondo_tools.store.format.state import State


@dataclass(slots=True)
class Removed:
    """The numbers of removed data; `unread` has the errors of files that may still have some of it."""

    sessions: set[SessionKey] = field(default_factory=set)
    rows: int = 0
    files: int = 0
    unread: list[str] = field(default_factory=list)


class Forgetting:
    """Forgets the sessions that match `selector`, in the store at `layout`; `tiers` is its number of tiers.

    `state` is the last commit. `key` makes the pseudonyms of this job, and must be dropped after it.
    """

    def __init__(
        self, layout: Layout, state: State, tiers: int, selector: Selector, key: bytes, upto: int
    ) -> None:
        self.state = state
        self.removed = Removed()
        self._layout, self._tiers, self._upto = layout, tiers, upto
        self._selector, self._key = selector, key

    def run(self) -> None:
        """Raises OSError; then a part is done, and the job must be repeated."""
        self.removed.unread = []
        found = list(self._survey())
        carry = self._carry()
        if any(one.keys for *_, one in found) or (carry is not None and not all(self._kept(carry))):
            if carry is not None:
                self._replace_carry(carry)
            for path, length, one in found:
                if one.keys or one.is_damaged:
                    self._rewrite(path, length, one)
        for path in self._layout.all_dead_letters():
            self._blank(path)

    def instances(self) -> set[str]:
        """The known names of forgotten instances."""
        named = {
            one.value for one in self._selector.matchers if (one.label, one.operator) == ("instance", "=")
        }
        return named | {instance for instance, _ in self.removed.sessions}

    def _is_meant(self, instance: str, labels: Labels) -> bool:
        return self._selector.matches({"instance": instance} | dict(labels))

    def _pseudonym(self, instance: str) -> int:
        """A number that takes no more bytes than the name."""
        name = instance.encode("utf-8", "surrogatepass")
        size = 4 if len(name) > 3 else min(len(name), 2)
        return int.from_bytes(blake2b(name, key=self._key, digest_size=size).digest(), "little")

    # --- files of frames ------------------------------------------------------------------------------

    def _survey(self) -> Iterator[tuple[Path, int, Survey]]:
        """The path, length and survey of each file, in the order of rewriting."""
        for path, length in self._files():
            try:
                with FrameFile(path) as file:
                    end = min(length or file.size, file.size)
                    yield path, end, survey(file, end, self._is_meant)
            except FileNotFoundError:
                continue  # it expired
            except StoreError as exc:
                if path.stat().st_size >= FILE_SIZE:  # else its writer died before the first row
                    self.removed.unread.append(str(exc))

    def _files(self) -> Iterator[tuple[Path, int]]:
        """The path and the length of each file; length 0 is the whole file."""
        layout, derived = self._layout, self.state.files
        coarse = [tier_name(tier) for tier in range(1, self._tiers)]
        for folder in (ENDED, JOURNALS, LAST_ROWS, *coarse):
            if folder == JOURNALS:
                journals = [number for number in layout.numbers(JOURNALS) if number <= self._upto]
                yield from ((layout.file(JOURNALS, number), 0) for number in journals)
            else:
                lengths = sorted(derived.get(folder, {}).items())
                yield from ((layout.file(folder, number), one.length) for number, one in lengths)

    def _rewrite(self, path: Path, end: int, one: Survey) -> None:
        try:
            with FrameFile(path) as file:
                rows = rewrite(file, end, one, self._is_meant, self._pseudonym)
        except FileNotFoundError:
            return
        except StoreError as exc:
            self.removed.unread.append(str(exc))
            return
        if one.keys:
            self.removed.sessions |= one.keys
            self.removed.rows += rows
            self.removed.files += 1

    # --- the carry ------------------------------------------------------------------------------------

    def _carry(self) -> Carry | None:
        """The carry; empty if it is damaged, as for readers; None if there is none."""
        if not self.state.carry:
            return None
        try:
            return parse_carry(self._layout.carry(self.state.carry).read_bytes())
        except (FileNotFoundError, StoreError):
            return Carry(windows=[{} for _ in range(1, self._tiers)])

    def _kept(self, carry: Carry) -> list[bool]:
        return [not self._is_meant(instance, labels) for instance, labels in carry.names]

    def _replace_carry(self, carry: Carry) -> None:
        is_kept = np.array(self._kept(carry), np.bool_)
        gone = np.flatnonzero(~is_kept).tolist()
        made = carry.only(is_kept)
        made.files = {folder: _closed(file, is_kept) for folder, file in carry.files.items()}
        state = copy.deepcopy(self.state)
        state.carry += 1
        path, old = self._layout.carry(state.carry), self._layout.carry(self.state.carry)
        files.replace(path, made.pack(), like=self._layout.state_json)
        try:
            files.replace(self._layout.state_json, state.pack(), like=self._layout.state_json)
        except OSError:
            if self._layout.state_json.read_bytes() != state.pack():
                path.unlink(missing_ok=True)
                raise
        self.state = state
        old.unlink(missing_ok=True)
        if gone:
            starts = carry.live["start_ms"].tolist()
            self.removed.sessions |= {(carry.names[slot][0], starts[slot]) for slot in gone}
            self.removed.files += 1

    # --- dead letters ---------------------------------------------------------------------------------

    def _blank(self, path: Path) -> None:
        """Overwrite lines about these sessions with spaces: a push may append others meanwhile."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as exc:
            self.removed.unread.append(f"{path}: {exc.strerror}")
            return
        with os.fdopen(fd, "r+b") as file:
            at, found = 0, False
            for line in file.read().splitlines(keepends=True):
                if self._is_about(line):
                    found = True
                    file.seek(at)
                    file.write(b" " * (len(line) - 1))
                at += len(line)
            file.flush()
            os.fsync(file.fileno())
        self.removed.files += found

    def _is_about(self, line: bytes) -> bool:
        try:
            series = parse_selector(json.loads(line)["series"])
        except (ValueError, TypeError, KeyError, RecursionError, RondoError):
            return False
        return self._selector.matches({one.label: one.value for one in series.matchers})


def _closed(file: OpenFile, is_kept: Flags) -> OpenFile:
    """The OpenFile of a folder whose open file must not be continued: number 0 is no file."""
    size = is_kept.size
    row_ms = np.concatenate((file.row_ms, np.zeros(max(size - file.row_ms.size, 0), np.int64)))
    return OpenFile(0, 0, [], np.full(int(is_kept.sum()), -1, np.int64), row_ms[:size][is_kept])
