"""Parsers of /proc, also with misleading names of processes."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach import process

REST = " S 1 1 1 0 -1 4194560 100 0 0 0 5 6 0 0 20 0 3 0 987654 1000 50 18446744073709551615 1 1"


@pytest.mark.parametrize("name", ["qemu", "a) S 1 2 3 (b", ")", "(", " ", "\n", "a\0b", ") R 0 0 0 0 0"])
def test_a_process_name_cannot_change_the_start(name: str) -> None:
    assert process.start_ticks(f"7 ({name}){REST}\n".encode()) == 987654


@given(st.binary(max_size=200))
def test_an_invalid_stat_is_an_os_error(data: bytes) -> None:
    try:
        process.start_ticks(data)
    except OSError as exc:
        assert "proc" in str(exc)


def test_statm_and_schedstat() -> None:
    assert process.parse_resident_pages(b"1000 50 20 1 0 30 0\n") == 50
    assert process.parse_schedstat(b"123 456 7\n") == (123, 456)


@pytest.mark.parametrize("data", [b"", b"1", b"1 x 2", b"a b c d"])
def test_truncated_text_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        process.parse_resident_pages(data)
    with pytest.raises(ValueError, match=r"."):
        process.parse_schedstat(data)


def test_our_own_process() -> None:
    own = process.Process(os.getpid())
    try:
        assert own.command_line().count(b"\0") >= 1
        rss_bytes, open_fds = own.gauges()
        assert rss_bytes > 1 << 20
        assert open_fds > 3 or not own.counts_fds
        assert own.cpu_s() > 0
        assert own.age_s() >= 0
        assert own.thread_times([os.getpid()])[0] > 0
        assert own.thread_times([]) == (0, 0)
        assert math.isnan(own.thread_times([1 << 30])[0])  # no such thread: not zero
        assert not own.is_over()
        assert own.exit_status() is None
    finally:
        own.close()


def test_a_missing_process_is_an_error() -> None:
    with pytest.raises(OSError, match="No such"):
        process.Process((1 << 22) + 1)
    assert process.thread_group((1 << 22) + 1) is None
    assert not process.exists((1 << 22) + 1)
    assert process.exists(1)
    assert process.thread_group(os.getpid()) == os.getpid()
