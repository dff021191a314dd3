"""Blocks: many ticks of a file or a backlog, decoded and handled as arrays.

Strategy: in the shape that `stream.encode` writes, all ticks of a session have the same length; so a piece
of the stream is an array of them, and numpy reads it as one. Few ticks at once, or ticks of another shape,
come one by one from the base class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rondo_tools.stream import MAX_T_MS, TICK_HEAD, Decoder, TickShape

_FEW = 16  # for fewer ticks an array costs more than it saves


@dataclass(frozen=True, slots=True)
class Block:
    """Ticks in their order of arrival: `t_ms` int64 (n,), `values` float64 (n, series)."""

    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class BlockDecoder(Decoder):
    """A Decoder that yields a Block for many ticks at once."""

    __slots__ = ()

    def _ticks(self, piece: bytes, at: int, shape: TickShape) -> tuple[Sequence[Any], int]:
        count = (len(piece) - at) // shape.layout.size
        if count < _FEW or not piece.startswith(TICK_HEAD, at + (_FEW - 1) * shape.layout.size):
            return super()._ticks(piece, at, shape)
        messages = np.frombuffer(piece, _message_dtype(shape), count, at)
        t_ms = messages["t_ms"]
        usual = (messages["head"] == TICK_HEAD) & (messages["bin_head"] == shape.bin_head)
        usual &= (t_ms > 0) & (t_ms <= MAX_T_MS)
        if not usual.all():
            messages = messages[: int(usual.argmin())]
            if not messages.size:
                return (), 0
        blocks = (Block(messages["t_ms"].astype(np.int64), messages["values"]),)
        return blocks, len(messages) * shape.layout.size


@cache
def _message_dtype(shape: TickShape) -> np.dtype[np.void]:
    bin_head, width = shape.bin_head, shape.layout.size - 10 - len(shape.bin_head)
    return np.dtype(
        [("head", "S2"), ("t_ms", ">u8"), ("bin_head", f"S{len(bin_head)}"), ("values", "<f8", (width // 8,))]
    )
