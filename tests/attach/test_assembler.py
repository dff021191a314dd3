"""The assembler, compared with bytes written by hand, and the two programs."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from rondo_tools.attach.counters import assembler as a
from rondo_tools.attach.counters import programs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # The examples and tables of the kernel's instruction-set.rst.
        (a.move(a.R6, a.R1), "bf 16 0000 00000000"),
        (a.set_to(a.R0, 1), "b7 00 0000 01000000"),
        (a.add(a.R2, -8), "07 02 0000 f8ffffff"),
        (a.load_32(a.R8, a.R1, 8), "61 18 0800 00000000"),
        (a.load_64(a.R7, a.R1, 0), "79 17 0000 00000000"),
        (a.store_64(a.R10, -8, a.R0), "7b 0a f8ff 00000000"),
        (a.store_zero_32(a.R10, -8), "62 0a f8ff 00000000"),
        (a.store_zero_64(a.R10, -16), "7a 0a f0ff 00000000"),
        (a.atomic_add_64(a.R0, 0, a.R1), "db 10 0000 00000000"),
        (a.load_map(a.R1, 5), "18 11 0000 05000000 00 00 0000 00000000"),
        (a.call(14), "85 00 0000 0e000000"),
        (a.leave(), "95 00 0000 00000000"),
    ],
)
def test_each_instruction(line: a.Line, expected: str) -> None:
    assert a.assemble([line]) == bytes.fromhex(expected)


def test_a_jump_counts_from_the_next_instruction() -> None:
    code = a.assemble(["again", a.jump_if_equal(a.R0, 0, "out"), a.jump("again"), "out", a.leave()])
    offsets = [struct.unpack_from("<h", code, at + 2)[0] for at in range(0, len(code), 8)]
    assert offsets == [1, -2, 0]


def test_a_jump_over_a_map_counts_its_two_halves() -> None:
    code = a.assemble([a.jump_unless_equal(a.R0, 7, "out"), a.load_map(a.R1, 3), "out", a.leave()])
    assert code[:8] == bytes.fromhex("55 00 0200 07000000")


@pytest.mark.parametrize(
    ("lines", "why"),
    [([a.jump("nowhere")], "no label 'nowhere'"), (["here", "here", a.leave()], "'here' is defined twice")],
)
def test_a_missing_or_duplicate_label_is_an_error(lines: list[a.Line], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        a.assemble(lines)


@pytest.mark.parametrize("make", [programs.count_exits, programs.count_wakeups])
def test_a_program_ends_by_returning_one(make: Callable[[int, int], bytes]) -> None:
    code = make(3, 4)
    assert code.endswith(a.assemble([a.set_to(a.R0, 1), a.leave()]))
    assert code.count(bytes([0x95, 0, 0, 0, 0, 0, 0, 0])) == 1
