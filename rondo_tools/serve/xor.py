"""Prometheus' XOR chunks: the samples of a series as bits, 1 to 3 bytes each.

    number of samples u16, big-endian
    time of the first, zigzag varint; its value, 64 bits
    time of the second less the first, uvarint; its value (below)
    of each later one: the difference between its step and the previous step:
        0 | 10 and 14 bits | 110 and 17 bits | 1110 and 20 bits | 1111 and 64 bits
    a value is XORed with the previous one:
        0: the same | 10, then the bits inside the window | 11, 5 bits: leading zeros, 6 bits: length
        of the window (0 is 64), then the bits inside it

Strategy: a chunk has one window that fits all of its differences. So all fields of all samples of all columns
are computed at once, as numbers and their lengths in bits; then the bits are laid out at once.
Source: Prometheus, tsdb/chunkenc/xor.go.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.prom.wire import varint

MOST = 120  # samples in a chunk, as in Prometheus

Bits = npt.NDArray[np.uint64]
Lengths = npt.NDArray[np.int64]

_STEPS = ((0b10, 2, 14), (0b110, 3, 17), (0b1110, 4, 20))  # prefix, its length, bits after it


def encode(t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> list[bytes]:
    """A chunk for each column of `values` (n, columns); `t_ms` (n,) ascends, 1 <= n <= MOST."""
    n, columns = values.shape
    words = np.where(np.isnan(values), np.uint64(STALE_NAN), values.view(np.uint64)).T
    head = struct.pack(">H", n) + varint(_zigzag(int(t_ms[0])))
    delta = varint(int(t_ms[1] - t_ms[0])) if n > 1 else b""
    heads = [head + struct.pack(">Q", first) + delta for first in words[:, 0].tolist()]
    if n == 1:
        return heads
    numbers = np.zeros((columns, n - 1, 5), np.uint64)
    lengths = np.zeros((columns, n - 1, 5), np.int64)
    numbers[:, 1:, 0:2], lengths[:, 1:, 0:2] = _steps(t_ms)
    _differences(words, numbers[:, :, 2:], lengths[:, :, 2:])
    return [head + tail for head, tail in zip(heads, _laid_out(numbers, lengths), strict=True)]


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _steps(t_ms: npt.NDArray[np.int64]) -> tuple[Bits, Lengths]:
    """For the third sample and each later one, a prefix and the bits after it: (n - 2, 2) both."""
    change = np.diff(t_ms, n=2)
    prefix, prefix_length = np.full(change.size, 0b1111, np.uint64), np.full(change.size, 4)
    length = np.full(change.size, 64)
    for bits, size, width in reversed(_STEPS):
        fits = (change >= 1 - (1 << width - 1)) & (change <= 1 << width - 1)
        prefix[fits], prefix_length[fits], length[fits] = bits, size, width
    same = change == 0
    prefix[same], prefix_length[same], length[same] = 0, 1, 0
    return (
        np.stack((prefix, change.astype(np.uint64)), axis=1),
        np.stack((prefix_length, length), axis=1),
    )


def _differences(words: Bits, numbers: Bits, lengths: Lengths) -> None:
    """For the second sample and each later one, control bits, the window, the bits inside it: all
    (columns, n - 1, 3)."""
    change = words[:, 1:] ^ words[:, :-1]
    differs = change != 0
    every = np.bitwise_or.reduce(change, axis=1)
    leading = np.minimum(_leading_zeros(every), 31)
    trailing = np.where(every == 0, 0, _trailing_zeros(every))
    size = 64 - leading - trailing
    opens = differs & (np.cumsum(differs, axis=1) == 1)
    numbers[:, :, 0] = np.where(opens, 0b11, np.where(differs, 0b10, 0))
    lengths[:, :, 0] = np.where(differs, 2, 1)
    numbers[:, :, 1] = (leading << 6 | size & 63).astype(np.uint64)[:, np.newaxis]
    lengths[:, :, 1] = np.where(opens, 11, 0)
    numbers[:, :, 2] = change >> trailing.astype(np.uint64)[:, np.newaxis]
    lengths[:, :, 2] = np.where(differs, size[:, np.newaxis], 0)


def _leading_zeros(words: Bits) -> Lengths:
    return np.array([64 - word.bit_length() for word in words.tolist()], np.int64)


def _trailing_zeros(words: Bits) -> Lengths:
    return np.array([(word & -word).bit_length() - 1 for word in words.tolist()], np.int64)


def _laid_out(numbers: Bits, lengths: Lengths) -> list[bytes]:
    """The fields of each column in order, most significant bit first, padded to whole bytes."""
    columns = lengths.shape[0]
    totals = lengths.reshape(columns, -1).sum(axis=1)
    fill = -totals % 8
    sizes = np.concatenate((lengths.reshape(columns, -1), fill[:, np.newaxis]), axis=1).ravel()
    fields = np.concatenate((numbers.reshape(columns, -1), np.zeros((columns, 1), np.uint64)), axis=1).ravel()
    ends = np.cumsum(sizes)
    left = np.repeat(ends, sizes) - np.arange(1, int(ends[-1]) + 1)  # bits of the field after this one
    bits = (np.repeat(fields, sizes) >> left.astype(np.uint64)) & np.uint64(1)
    data = np.packbits(bits.astype(np.uint8)).tobytes()
    edges = np.concatenate(([0], np.cumsum((totals + fill) // 8))).tolist()
    return [data[first:last] for first, last in pairwise(edges)]
