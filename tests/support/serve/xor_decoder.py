"""A decoder of XOR chunks, bit by bit: the oracle of `serve/xor.py`, whose head comment has the format."""

from __future__ import annotations

import struct
from typing import Any


def decode(chunk: bytes) -> tuple[list[int], list[int]]:
    """The times of a chunk and the bits of its values."""
    count = struct.unpack_from(">H", chunk)[0]
    bits = _Reader(chunk[2:])
    t_ms = bits.zigzag()
    times, values = [t_ms], [bits.take(64)]
    step = leading = trailing = 0
    for number in range(1, count):
        step = bits.uvarint() if number == 1 else step + bits.step()
        t_ms += step
        word = values[-1]
        if bits.take(1):
            if bits.take(1):
                leading = bits.take(5)
                trailing = 64 - leading - (bits.take(6) or 64)
            word ^= bits.take(64 - leading - trailing) << trailing
        times.append(t_ms)
        values.append(word)
    return times, values


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._bits: Any = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        return int(self._bits >> self._left & (1 << count) - 1)

    def uvarint(self) -> int:
        number = shift = 0
        while True:
            byte = self.take(8)
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def zigzag(self) -> int:
        number = self.uvarint()
        return number >> 1 if not number & 1 else -(number + 1 >> 1)

    def step(self) -> int:
        """The difference between this step and the previous one."""
        for width in (0, 14, 17, 20):
            if not self.take(1):
                number = self.take(width)
                return number - (1 << width) if width and number > 1 << width - 1 else number
        number = self.take(64)
        return number - (1 << 64) if number >> 63 else number
