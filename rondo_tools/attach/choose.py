"""Which VMs are watched: ``--match`` and ``--ignore``, by name and by VMM. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from rondo_tools.attach.naming import RONDO_VMM, Identity
from rondo_tools.errors import UsageError

KEYS = ("name", "vmm")


class Condition(NamedTuple):
    """``name=ci-*``: a field, and a shell's pattern for its value."""

    key: str
    pattern: str

    def holds(self, identity: Identity) -> bool:
        return fnmatchcase(identity.name if self.key == "name" else identity.vmm, self.pattern)


def parse_condition(text: str) -> Condition:
    key, equals, pattern = text.partition("=")
    if not equals or key not in KEYS or not pattern:
        raise UsageError(f"{text!r} is not a condition: write name=PATTERN or vmm=PATTERN, such as name=ci-*")
    return Condition(key, pattern)


class Choice:
    """A VM is watched if it matches one of `match`, or there is none, and none of `ignore`.

    rondo-vmm sends its VMs' metrics itself, so they are left out, unless a condition on `vmm` includes them.
    """

    def __init__(self, match: Sequence[Condition] = (), ignore: Sequence[Condition] = ()) -> None:
        self._match, self._ignore = tuple(match), tuple(ignore)
        asked = any(one.key == "vmm" and fnmatchcase(RONDO_VMM, one.pattern) for one in match)
        if not asked:
            self._ignore += (Condition("vmm", RONDO_VMM),)

    def wants(self, identity: Identity) -> bool:
        if self._match and not any(one.holds(identity) for one in self._match):
            return False
        return not any(one.holds(identity) for one in self._ignore)
