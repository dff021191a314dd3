"""Checks untrusted regular expressions: bounds the number of ways to try one before it is tried.

Strategy: Python's `re` backtracks, and `(a+)+$` on thirty characters takes a minute. So an upper bound of the
number of ways through the parsed pattern is computed: alternatives add up, a sequence multiplies, a
repetition of one character has as many ways as the value has places. A repetition of anything longer is
refused, if it may be tried twice at one place. A repetition of what may be empty, as in `(?:^){1000}`, does
not stop at the value's end, so each of its rounds counts as a way. The patterns of Prometheus and Grafana for
a choice (`vm-1|vm-2`), and prefixes (`vm-.*`), have few ways.
"""

from __future__ import annotations

import math
import re
import time
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from rondo_tools.errors import UsageError
from rondo_tools.selector import Matcher

MAX_PATTERN = 4096  # characters
MATCHING_S = 5.0  # for the regular expressions of a query
MAX_WAYS = 10_000_000
_FAR_TOO_MANY = 1 << 200  # numbers stop here: exact powers of a hostile pattern would take hours

_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_ONE = (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN, codes.CATEGORY)


class SafePattern:
    """A `selector.Pattern`. Raises UsageError if it is invalid, or cannot be bounded.

    `until` is the query's deadline for matching, by time.monotonic.
    """

    def __init__(self, text: str, until: float = math.inf) -> None:
        if len(text) > MAX_PATTERN:
            raise UsageError(f"a pattern has at most {MAX_PATTERN} characters")
        self.text, self._until = text, until
        try:
            self._parsed = parser.parse(text, re.DOTALL | re.ASCII)
            self._compiled = re.compile(text, re.DOTALL | re.ASCII)
        except (re.error, ValueError, OverflowError, RecursionError) as exc:
            raise UsageError(f"{text!r:.200} is not a regular expression: {exc}") from exc
        self._ways: dict[int, int] = {}
        self.ways(2)

    def ways(self, length: int) -> int:
        """An upper bound of the ways to try it on a value of this length. Raises the class' UsageError."""
        if length not in self._ways:
            self._ways[length] = self._of(self._parsed, length)
        return self._ways[length]

    def fullmatch(self, value: str, /) -> re.Match[str] | None:
        """Match a value. Raises UsageError if it might take too long."""
        if time.monotonic() > self._until:
            raise UsageError(
                f"matching regular expressions took more than {MATCHING_S:g} s: write simpler ones"
            )
        if self.ways(len(value)) > MAX_WAYS:
            raise UsageError(
                f"{self.text!r:.200} has too many ways to match {value!r:.50}: use fewer repetitions"
            )
        return self._compiled.fullmatch(value)

    def _of(self, sequence: Any, length: int) -> int:
        ways = 1
        for operator, argument in sequence:
            if operator in _ONE or operator == codes.AT:
                continue
            if operator == codes.BRANCH:
                ways *= sum(self._of(branch, length) for branch in argument[1])
            elif operator == codes.SUBPATTERN:
                ways *= self._of(argument[3], length)
            elif operator in _REPEATS:
                ways *= self._of_repeat(argument, length)
            else:  # look-around, back references: RE2 has neither
                raise UsageError(f"{self.text!r:.200}: RE2 does not have {str(operator).lower()}")
            if ways >= _FAR_TOO_MANY:
                return _FAR_TOO_MANY
        return ways

    def _of_repeat(self, argument: Any, length: int) -> int:
        # Also on an empty value an optional part is tried once.
        least, most, repeated = int(argument[0]), min(int(argument[1]), max(length, 1)), argument[2]
        if most <= least:
            return _rounds(self._of(repeated, length), least, may_be_empty=not repeated.getwidth()[0])
        if len(repeated) == 1 and repeated[0][0] in _ONE:
            return most - least + 1
        if most == 1:  # an optional part
            return 1 + self._of(repeated, length)
        inner = repeated[0][1][3] if len(repeated) == 1 and repeated[0][0] == codes.SUBPATTERN else repeated
        if len(inner) == 1 and inner[0][0] in _ONE:
            return most - least + 1
        raise UsageError(
            f"{self.text!r:.200}: a repetition of more than one character may take for ever; "
            "repeat single characters or classes, such as [a-z0-9-]+"
        )


def _rounds(ways: int, count: int, *, may_be_empty: bool) -> int:
    """The ways to try `count` rounds of a part with `ways` ways."""
    if ways > 1 and count > _FAR_TOO_MANY.bit_length():
        return _FAR_TOO_MANY
    return int(ways**count) * (max(count, 1) if may_be_empty else 1)


def matcher(label: str, operator: str, value: str, until: float = math.inf) -> Matcher:
    """Raises UsageError for a pattern that cannot be tried safely."""
    return Matcher(label, operator, value, SafePattern(value, until) if "~" in operator else None)
