"""Properties with slow examples, over 20 ms each: one round in `make test`, two more in the long tier."""

from __future__ import annotations

import pytest

IN_ROUNDS = pytest.mark.parametrize("round_", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))])
"""Hypothesis tries other examples each time, so what a test adds up to is three times its `max_examples`."""
