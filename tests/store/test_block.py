"""Blocks: the decoder of many ticks at once yields the same events as the plain one."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools import stream
from rondo_tools.errors import StreamError
from rondo_tools.store.block import Block, BlockDecoder
from rondo_tools.stream import Decoder, End, Event, Tick
from tests.support.store.stream_model import COUNTS, LEVEL, T0, header, ticks
from tests.support.streams import encoded


def decode(decoder: Decoder, pieces: Sequence[bytes]) -> tuple[list[Event], str]:
    """The events, blocks taken apart, and the error that ended them."""
    events: list[Event] = []
    try:
        for piece in pieces:
            for event in decoder.feed(piece):
                events += taken_apart(event) if isinstance(event, Block) else [event]
        decoder.close()
    except StreamError as exc:
        return events, str(exc)
    return events, ""


def taken_apart(block: Block) -> Iterator[Tick]:
    for t_ms, row in zip(block.t_ms.tolist(), block.values, strict=True):
        yield Tick(t_ms, row.tobytes())


def test_many_ticks_are_a_block_and_few_are_single() -> None:
    opened = stream.encode(header())
    for count, kinds in ((3, [Tick] * 3), (400, [Block])):
        decoder = BlockDecoder()
        data = opened + encoded(*ticks(count))
        assert [type(event) for event in decoder.feed(data)][1:] == kinds
        assert not decoder.is_inside_message


@given(
    st.sampled_from([1, 2, 16, 40]),
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=12)), max_size=3),
    st.lists(st.integers(0), max_size=6),
)
@settings(deadline=None)
def test_events_and_errors_equal_those_of_the_plain_decoder(
    width: int, runs: list[int], scars: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    """Runs of ticks with an old one, an end and a new header in between, damaged, and split anywhere."""
    series = tuple(COUNTS._replace(name=f"n{number}") for number in range(width))
    messages: list[Event] = []
    for number, count in enumerate(runs):
        messages.append(header(series, start_ms=T0 + number))
        messages += ticks(count, width=width)
        messages.append(Tick(5_000_000, struct.pack(f"<{width}d", *range(width))))  # a shorter time
        messages += [*ticks(count, width=width), End("reset", T0)]
    data = bytearray(encoded(*messages))
    for at, scar in scars:
        begin = at % len(data)
        data[begin : begin + len(scar)] = scar
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [bytes(data[a:b]) for a, b in pairwise(edges)]
    assert decode(BlockDecoder(), pieces) == decode(Decoder(), pieces)


def test_values_keep_every_bit() -> None:
    values = bytes.fromhex("0100000000000ff8 0000000000000080") * 20  # a NaN with a payload, -0.0
    decoder = BlockDecoder()
    some = [Tick(T0 + i, values[:16]) for i in range(20)]
    found: list[object] = list(decoder.feed(encoded(header((COUNTS, LEVEL)), *some)))
    block = found[-1]
    assert isinstance(block, Block)
    assert block.values.tobytes() == values
