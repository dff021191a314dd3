"""The policy for forcing data to the disk: `--sync 5s|always|never`.

Strategy: `always` ends a turn with one fdatasync for all producers; with an interval a thread syncs
(`syncer`), and no producer waits for the disk. A killed process needs neither, because written data is in the
kernel's memory.
"""

from __future__ import annotations

from typing import NamedTuple

from rondo_tools.errors import UsageError
from rondo_tools.units import format_duration, parse_duration


class Policy(NamedTuple):
    """`every_ms` 0 without `always` means never."""

    always: bool
    every_ms: int

    def __str__(self) -> str:
        return "always" if self.always else format_duration(self.every_ms) if self.every_ms else "never"


def parse_policy(text: str) -> Policy:
    """``always``, ``never``, or a duration. Raises UsageError."""
    if text in ("always", "never"):
        return Policy(text == "always", 0)
    try:
        return Policy(False, parse_duration(text))
    except UsageError:
        raise UsageError(f"{text!r}: write always, never or a duration such as 5s") from None


NEVER = Policy(False, 0)
DEFAULT_POLICY = Policy(False, 5_000)
