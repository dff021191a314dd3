"""A small BPF assembler: a list of instructions and labels becomes the bytes that the kernel loads. No I/O.

Strategy: one function for each instruction that rondo's programs use, named as in the kernel's
documentation (Documentation/bpf/standardization/instruction-set.rst). A jump names a label; a label is a
string in the list. `assemble` has two passes: the labels' places, then the bytes.

    opcode: 8 bits | destination register: 4, source register: 4 | offset: 16 | immediate: 32
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)
"""R0 holds results, R1 to R5 arguments (lost over a call), R6 to R9 survive calls, R10 is the frame's end."""

_LAYOUT = struct.Struct("<BBhi")
_MAP_FD = 1  # the source register of a 16-byte load: the immediate is a map's descriptor


class Instruction(NamedTuple):
    """One instruction of 8 bytes; an offset that is a string is the label to jump to."""

    opcode: int
    to: int = 0
    source: int = 0
    offset: int | str = 0
    immediate: int = 0


Line = Instruction | str | Sequence[Instruction]
"""An item of a program: an instruction, a label, or several instructions that belong together."""


def move(to: int, source: int) -> Instruction:
    return Instruction(0xBF, to, source)


def set_to(to: int, immediate: int) -> Instruction:
    return Instruction(0xB7, to, immediate=immediate)


def add(to: int, immediate: int) -> Instruction:
    return Instruction(0x07, to, immediate=immediate)


def load_32(to: int, source: int, offset: int) -> Instruction:
    return Instruction(0x61, to, source, offset)


def load_64(to: int, source: int, offset: int) -> Instruction:
    return Instruction(0x79, to, source, offset)


def store_64(to: int, offset: int, source: int) -> Instruction:
    return Instruction(0x7B, to, source, offset)


def store_zero_32(to: int, offset: int) -> Instruction:
    return Instruction(0x62, to, 0, offset)


def store_zero_64(to: int, offset: int) -> Instruction:
    return Instruction(0x7A, to, 0, offset)


def atomic_add_64(to: int, offset: int, source: int) -> Instruction:
    return Instruction(0xDB, to, source, offset)


def load_map(to: int, fd: int) -> Sequence[Instruction]:
    """The address of a map: the one instruction of 16 bytes."""
    return Instruction(0x18, to, _MAP_FD, immediate=fd), Instruction(0)


def call(helper: int) -> Instruction:
    return Instruction(0x85, immediate=helper)


def jump(label: str) -> Instruction:
    return Instruction(0x05, offset=label)


def jump_if_equal(register: int, immediate: int, label: str) -> Instruction:
    return Instruction(0x15, register, offset=label, immediate=immediate)


def jump_unless_equal(register: int, immediate: int, label: str) -> Instruction:
    return Instruction(0x55, register, offset=label, immediate=immediate)


def leave() -> Instruction:
    """End the program; R0 is its result."""
    return Instruction(0x95)


def assemble(lines: Sequence[Line]) -> bytes:
    """The program's bytes. Raises ValueError for a label that is missing or defined twice."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in lines:
        if isinstance(line, str):
            if line in labels:
                raise ValueError(f"the label {line!r} is defined twice")
            labels[line] = len(instructions)
        elif isinstance(line, Instruction):
            instructions.append(line)
        else:
            instructions.extend(line)
    return b"".join(_encode(one, at, labels) for at, one in enumerate(instructions))


def _encode(one: Instruction, at: int, labels: dict[str, int]) -> bytes:
    offset = one.offset
    if isinstance(offset, str):
        if offset not in labels:
            raise ValueError(f"no label {offset!r}")
        offset = labels[offset] - at - 1
    return _LAYOUT.pack(one.opcode, one.to | one.source << 4, offset, one.immediate)
