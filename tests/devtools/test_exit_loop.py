"""The benchmark's guest that only exits: both VMMs run it, emulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from devtools import exit_loop


def test_rondo_runs_it_and_ticks_meanwhile() -> None:
    life = exit_loop.rondo(1.2, "soft")
    assert life.exits_per_s > 0
    assert life.cpu_us > 0
    assert life.late_ms


def test_qemu_runs_it(program: Callable[[str], Path]) -> None:
    program("qemu-system-x86_64")
    peer = exit_loop.qemu(10_000, "tcg")
    assert peer.exits_per_s > 0
    assert peer.cpu_us >= 0
