"""Shifts the wall clock of a Python that has this folder on its PYTHONPATH.

The file $SET_CLOCK holds by how many milliseconds; a test may replace it at any time. Monotonic clocks
and the times of files stay as they are, as they do for most of what a step of the clock does.
"""

import os
import time
from pathlib import Path

_file = Path(os.environ["SET_CLOCK"])
_true_ns = time.time_ns


def _time_ns() -> int:
    return _true_ns() + int(_file.read_text()) * 1_000_000


time.time_ns = _time_ns
time.time = lambda: _time_ns() / 1e9
