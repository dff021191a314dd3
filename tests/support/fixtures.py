"""The types of what fixtures give."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

Run = Callable[..., CompletedProcess[bytes]]
"""`run`: a command of rondo's, to its end."""

Query = Run
"""`query`: rondo-query, to its end."""
