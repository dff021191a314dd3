"""The names of a store's files and folders. No other module spells them.

    store.json  state.json  lock  reserve  carry_N  forget.json
    tier_0/N    journals: every tick, in order of arrival
    tier_1/N …  roll-ups, one folder for each tier
    ended/N     descriptions of ended sessions
    last_rows/N their last ten minutes of ticks
    cursor_NAME.json  cursor_NAME.lock  rejected_NAME.jsonl  rejected_NAME.jsonl.1
    restore_ID/  files of a restore, until it is committed and they are in place
    incomplete   sessions that were restored only in part

Files of frames are named by their number, in ten digits, so that `ls` shows them in order.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rondo_tools.errors import UsageError

JOURNALS = "tier_0"
ENDED = "ended"
LAST_ROWS = "last_rows"
_FOLDER = re.compile(rf"tier_[0-9]+|{ENDED}|{LAST_ROWS}")
_NUMBER = re.compile(r"[0-9]{10}")
_CARRY = re.compile(r"carry_([0-9]{10})")
# See files.replace, and forget.rewrite for files of frames.
_TEMPORARY = re.compile(r"\.(state\.json|store\.json|forget\.json|carry_[0-9]{10})\.[0-9]+")
_TEMPORARY_FRAMES = re.compile(r"\.[0-9]{10}\.[0-9]+")
_DEAD_LETTERS = re.compile(r"rejected_.*\.jsonl(\.1)?")
_RESTORE = re.compile(r"restore_([0-9a-f]{16})")
_CURSOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CURSOR = re.compile(rf"cursor_({_CURSOR_NAME.pattern})\.json")
_PART = re.compile(
    rf"{_FOLDER.pattern}|{_CARRY.pattern}|{_DEAD_LETTERS.pattern}|{_RESTORE.pattern}"
    r"|cursor_.*\.(json|lock)|(state|forget)\.json|reserve|incomplete"
)


def parse_cursor_name(text: str) -> str:
    """A cursor's name: part of a file's name. Raises UsageError."""
    if not _CURSOR_NAME.fullmatch(text):
        raise UsageError(f"{text!r} is no name for a cursor: letters, digits, '_', '.' and '-', at most 64")
    return text


def is_store(path: str | Path) -> bool:
    """Whether `path` has a store in it; a folder that this user may not read counts as one."""
    try:
        Layout(path).store_json.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):  # ValueError: an impossible name
        return False
    return True


class Layout:
    """The paths in one store's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.store_json = self.path / "store.json"
        self.state_json = self.path / "state.json"
        self.lock = self.path / "lock"
        self.reserve = self.path / "reserve"
        self.forget_json = self.path / "forget.json"
        self.incomplete = self.path / "incomplete"

    def folder(self, name: str) -> Path:
        """The folder of JOURNALS, ENDED, LAST_ROWS or `tier_name(n)`."""
        return self.path / name

    def file(self, name: str, number: int) -> Path:
        return self.path / name / f"{number:010d}"

    def carry(self, number: int) -> Path:
        """The carry of roll-up number `number`."""
        return self.path / f"carry_{number:010d}"

    def restore(self, name: str) -> Layout:
        """The files of the restore with this name, named as in the store."""
        return Layout(self.path / f"restore_{name}")

    def restores(self) -> list[str]:
        """The names of all restores that have a folder."""
        return sorted(found[1] for name in _names(self.path) if (found := _RESTORE.fullmatch(name)))

    def carries(self) -> list[int]:
        """The numbers of all carry files there are."""
        return sorted(int(found[1]) for name in _names(self.path) if (found := _CARRY.fullmatch(name)))

    def has_lost_state(self) -> bool:
        """Whether state.json is gone: the first journal stays until a state.json counts it as rolled up."""
        folders = [name for name in _names(self.path) if _FOLDER.fullmatch(name) and name != JOURNALS]
        is_rolled_up = bool(self.carries()) or any(map(self.numbers, folders))
        return is_rolled_up and 1 not in self.numbers(JOURNALS) and not self.state_json.exists()

    def temporaries(self) -> list[Path]:
        """The left-over files of interrupted replacements."""
        found = [self.path / name for name in sorted(_names(self.path)) if _TEMPORARY.fullmatch(name)]
        for folder in (self.path / name for name in _names(self.path) if _FOLDER.fullmatch(name)):
            found += [folder / name for name in sorted(_names(folder)) if _TEMPORARY_FRAMES.fullmatch(name)]
        return found

    def numbers(self, name: str) -> list[int]:
        """The numbers of the files in a folder, ascending; none if there is no such folder."""
        return sorted(int(found) for found in _names(self.path / name) if _NUMBER.fullmatch(found))

    def cursor(self, name: str) -> Path:
        return self.path / f"cursor_{name}.json"

    def cursor_lock(self, name: str) -> Path:
        return self.path / f"cursor_{name}.lock"

    def dead_letters(self, name: str) -> Path:
        return self.path / f"rejected_{name}.jsonl"

    def dead_letters_before(self, name: str) -> Path:
        """The older dead letters, moved when the file was full."""
        return self.path / f"rejected_{name}.jsonl.1"

    def all_dead_letters(self) -> list[Path]:
        """The files of dead letters of all cursors, the older ones too."""
        return [self.path / name for name in sorted(_names(self.path)) if _DEAD_LETTERS.fullmatch(name)]

    def used_bytes(self) -> int:
        """The disk space of all files, without holes."""
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                try:
                    total += os.lstat(f"{folder}/{name}").st_blocks * 512
                except OSError:
                    continue  # it was removed meanwhile
        return total

    def cursors(self) -> list[str]:
        """The names of all cursors there are."""
        return sorted(found[1] for name in _names(self.path) if (found := _CURSOR.fullmatch(name)))


def tier_name(tier: int) -> str:
    """The folder of a tier; tier 0 holds the journals."""
    return f"tier_{tier}"


def is_cursor_name(name: str) -> bool:
    return _CURSOR.fullmatch(f"cursor_{name}.json") is not None


def is_part(name: str) -> bool:
    """Whether only stores have files or folders of this name."""
    return _PART.fullmatch(name) is not None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names are enough)
    except (FileNotFoundError, NotADirectoryError):
        return []
