"""Untrusted patterns: accepted ones match like Python's, and none takes for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.errors import UsageError
from rondo_tools.serve.patterns import MAX_PATTERN, SafePattern


@pytest.mark.parametrize(
    "pattern",
    [
        "vm-1",
        "vm-1|vm-2|web",
        "vm-.*",
        ".+",
        "",
        "(vm|web)-[0-9]+",
        "(?i)VM-1",
        "(?:vm-)?1",
        "a{2,3}",
        "(ab){2}",
        "[a-z]+-[a-z0-9]+(-old)?",
        "^vm-1$",
        r"\d+\.\d+",
        "(a)*",
    ],
)
@pytest.mark.parametrize(
    "value", ["", "vm-1", "VM-1", "vm-23", "web-7", "aa", "abab", "a-b-old", "1.5", "a\nb"]
)
def test_it_matches_like_re(pattern: str, value: str) -> None:
    expected = re.fullmatch(pattern, value, re.DOTALL | re.ASCII) is not None
    assert (SafePattern(pattern).fullmatch(value) is not None) is expected


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+$", "may take for ever"),
        ("(a|aa)+", "may take for ever"),
        ("(.*)*x", "may take for ever"),
        ("(a|b|ab)*c", "may take for ever"),
        ("(?=a)a", "RE2 does not have"),
        (r"(a)\1", "RE2 does not have"),
        ("(", "not a regular expression"),
        ("a" * (MAX_PATTERN + 1), "at most 4096 characters"),
    ],
)
def test_patterns_that_may_backtrack_are_refused(pattern: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        SafePattern(pattern)


@pytest.mark.parametrize("pattern", [".*" * 12 + "x", "(a|a)" * 40 + "b", ".*a.*b.*c.*d.*e", "(a?){30}a{30}"])
def test_a_value_with_too_many_ways_is_not_tried(pattern: str) -> None:
    with pytest.raises(UsageError, match="too many ways"):
        SafePattern(pattern).fullmatch("a" * 60)


@pytest.mark.parametrize(
    "pattern", ["(?:^){20000000}", "(?:(?:){9999}){9999}", "(?:(?:$){9999}){9999}x?", "(?:(?:^|$){40}x)?"]
)
def test_repeated_emptiness_does_not_end_with_the_value(pattern: str) -> None:
    with pytest.raises(UsageError, match="too many ways"):
        SafePattern(pattern).fullmatch("")


def test_counting_the_ways_takes_no_long_numbers() -> None:
    for pattern in ("(ab|c){99999}", "(((ab|c){99}){99}){99}"):
        assert SafePattern(pattern).ways(9).bit_length() < 1000


ATOMS = st.sampled_from(
    ["a", "b", ".", "[ab]", "a*", "b+", ".*", "a?", "(a|b)", "(ab|a)", "a{1,2}", "(a)*", "(ba)?"]
)


@given(st.lists(ATOMS, max_size=6).map("".join), st.text("ab", max_size=8))
def test_any_pattern_is_refused_or_right(pattern: str, value: str) -> None:
    assert bool(SafePattern(pattern).fullmatch(value)) is (re.fullmatch(pattern, value) is not None)
