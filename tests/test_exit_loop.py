"""The benchmark's guest that only exits: both VMMs run it, emulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import exit_loop


def test_rondo_runs_it_and_ticks_meanwhile() -> None:
    life = exit_loop.rondo(1.2, "soft")
    assert life.exits_per_s > 100
    assert len(life.late_ms) in (1, 2)
    assert all(0 <= late < 1000 for late in life.late_ms)


def test_qemu_runs_it(program: Callable[[str], Path]) -> None:
    program("qemu-system-x86_64")
    assert exit_loop.qemu(10_000, "tcg") > 100
