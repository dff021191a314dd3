"""XOR chunks: decoding returns the encoded samples, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.serve import xor
from tests.support.rounds import IN_ROUNDS
from tests.support.serve.xor_decoder import decode

STEPS = st.one_of(
    st.just(1000),
    st.integers(1, 5000),
    st.sampled_from(
        [1000 + edge for edge in (8191, 8192, 8193, 65535, 65536, 65537, 524287, 524288, 524289)]
    ),
    st.integers(1, 1 << 45),
)
WORDS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, 1 << 63, STALE_NAN, 0x7FF8000000000000, 0x3FF0000000000000]),
    st.floats(width=64).map(lambda value: int(np.float64(value).view(np.uint64))),
)


@IN_ROUNDS
@settings(max_examples=35)
@given(st.data())
def test_chunks_decode_as_encoded(round_: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, xor.MOST))
    columns = data.draw(st.integers(1, 3))
    steps = data.draw(st.lists(STEPS, min_size=n - 1, max_size=n - 1))
    t_ms = data.draw(st.integers(0, 1 << 42)) + np.cumsum([0, *steps])
    few = data.draw(st.lists(WORDS, min_size=1, max_size=4))
    words = np.array(
        [
            data.draw(st.lists(st.sampled_from(few) | WORDS, min_size=columns, max_size=columns))
            for _ in range(n)
        ],
        np.uint64,
    )
    values = words.view(np.float64)
    expected = np.where(np.isnan(values), np.uint64(STALE_NAN), words)
    chunks = xor.encode(t_ms, values)
    assert len(chunks) == columns
    for column, chunk in enumerate(chunks):
        times, bits = decode(chunk)
        assert times == t_ms.tolist()
        assert bits == expected[:, column].tolist()


def test_the_bits_equal_those_of_prometheus() -> None:
    """A chunk encoded by hand, by the format in Prometheus' tsdb/chunkenc/xor.go."""
    (chunk,) = xor.encode(np.array([10, 20, 35]), np.array([[1.0], [1.0], [2.0]]))
    head = bytes([0, 3, 20]) + bytes.fromhex("3ff0000000000000") + bytes([10])
    # 0: the same value. 10 and 14 bits: the step grew by 5. 11: a window of leading zeros and length;
    # 1.0 ^ 2.0 = 0x7ff0000000000000: one leading zero, 52 trailing: 11 bits.
    bits = "0" + "10" + format(5, "014b") + "11" + format(1, "05b") + format(11, "06b") + "1" * 11
    bits += "0" * (-len(bits) % 8)
    assert chunk == head + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


@pytest.mark.parametrize("change", [-8191, 8192, -65535, 65536, -524287, 524288])
def test_steps_at_the_edges_of_their_fields(change: int) -> None:
    t_ms = np.cumsum([0, 1_000_000, 1_000_000 + change, 5])
    ((times, _),) = map(decode, xor.encode(t_ms, np.zeros((4, 1))))
    assert times == t_ms.tolist()
