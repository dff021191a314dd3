"""Texts to print: a series with all its labels, any text as one harmless word, a number with its noun."""

from __future__ import annotations

from rondo_tools.catalog import Series
from rondo_tools.printable import printable
from rondo_tools.selector import NAME, labels_of
from rondo_tools.stream import Header


def full_name(header: Header, series: Series) -> str:
    """``name{instance="vm-1",reason="io"}``: a series with all the labels that a selector can match."""
    labels = labels_of(header, series)
    del labels[NAME]
    return str(series._replace(labels=tuple(sorted(labels.items()))))


def counted(number: int, noun: str) -> str:
    """``1 session``, ``2 sessions``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def word(text: str) -> str:
    """`text` with white space and unprintable characters escaped as in a selector's string.

    Names and labels may be any text: they must not mislead awk in a table, nor the terminal.
    """
    return printable(text).replace(" ", "\\x20")
