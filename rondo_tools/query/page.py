"""Decides whether a table is for people: on a terminal, without a format flag."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any, TextIO

from rondo_tools.view.table import Page


def page(out: TextIO, flags: Mapping[str, Any]) -> Page | None:
    """The terminal to fit a table to; None if it is for programs, or if flags set its format."""
    if not out.isatty() or flags["format"] is not None or flags.get("wide") or flags.get("unix"):
        return None
    size = shutil.get_terminal_size()  # COLUMNS and LINES, else standard output's
    environ = os.environ
    color = not environ.get("NO_COLOR") and environ.get("TERM", "dumb") not in ("", "dumb")
    return Page(size.columns, size.lines, out.encoding, color)
