"""The backlog: bounded, in order, each item after the header of its session."""

from __future__ import annotations

import struct
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.producer.backlog import Backlog, Follower
from rondo_tools.stream import Tick, encode

ALL = 1 << 20  # bytes


def tick(number: int) -> bytes:
    return b"tick %03d;" % number


def ticks(first: int, last: int) -> bytes:
    """The ticks from `first` to `last`, exclusive."""
    return b"".join(tick(number) for number in range(first, last))


def rest_of(follower: Follower, most: int = ALL) -> bytes:
    """Everything up to the end of the last session, or until there is nothing more."""
    got = b""
    while not follower.is_done and (piece := follower.next(most)):
        got += piece
    return got


def all_of(backlog: Backlog, most: int = ALL) -> bytes:
    return rest_of(Follower(backlog), most)


@given(st.integers(1, 20), st.integers(0, 60), st.integers(1, 100))
def test_a_backlog_keeps_the_newest_and_counts_the_rest(limit: int, count: int, most: int) -> None:
    backlog = Backlog(limit)
    for number in range(count):
        backlog.put(tick(number))
    backlog.finish(b"end")
    assert all_of(backlog, most) == ticks(max(count - limit, 0), count) + b"end"
    assert backlog.dropped == max(count - limit, 0)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 8), st.integers(1, 50))
def test_a_taken_item_is_not_lost_when_it_is_dropped(bursts: list[int], limit: int, most: int) -> None:
    backlog, number, got = Backlog(limit), 0, b""
    follower = Follower(backlog)
    for burst in bursts:
        for _ in range(burst):
            backlog.put(tick(number))
            number += 1
        got += follower.next(most)
    backlog.finish(b"")
    got += rest_of(follower, most)
    items = got.split(b";")[:-1]
    assert len(items) + backlog.dropped == number
    assert len(items) == follower.items
    assert items == sorted(items)
    assert follower.is_done


def test_waiting_counts_items_that_no_follower_has_taken() -> None:
    backlog = Backlog(3)
    for number in range(5):
        backlog.put(tick(number))
    assert backlog.waiting == 5
    Follower(backlog).next(ALL)
    assert backlog.waiting == 0
    backlog.put(tick(5))
    Follower(backlog).next(1)  # an old item again
    assert backlog.waiting == 1


def test_a_second_follower_gets_the_whole_backlog_again() -> None:
    backlog = Backlog(3)
    for number in range(5):
        backlog.put(tick(number))
    backlog.finish(b"end")
    assert all_of(backlog) == all_of(backlog) == ticks(2, 5) + b"end"
    assert backlog.dropped == 2


def test_a_piece_is_about_as_large_as_asked_for_and_the_end_comes_alone() -> None:
    backlog = Backlog()
    backlog.begin(b"header;")
    follower = Follower(backlog)
    assert follower.next(1) == b"header;"
    assert follower.next(1) == b""
    for number in range(5):
        backlog.put(tick(number))
    assert follower.next(1) == tick(0)
    assert follower.next(10) == ticks(1, 3)
    backlog.finish(b"end")
    assert follower.next(ALL) == ticks(3, 5)
    assert not follower.is_done
    assert (follower.next(ALL), follower.is_done) == (b"end", True)
    assert follower.next(ALL) == b""


@given(
    st.lists(st.sampled_from(["put", "put", "put", "anew", "look"]), max_size=40),
    st.integers(1, 6),
    st.sampled_from([1, 30, ALL]),
)
def test_every_item_follows_the_header_of_its_session(steps: list[str], limit: int, most: int) -> None:
    """For any items lost from a full backlog, and any first item of a follower."""
    backlog = Backlog(limit)
    backlog.begin(b"head 0;")
    follower = Follower(backlog)
    sent = follower.next(most)
    session = number = 0
    for step in steps:
        if step == "look":
            sent += follower.next(most)
            continue
        backlog.put(b"item %d of %d;" % (number, session))
        number += 1
        if step == "anew":  # like a VM: no session without a tick
            backlog.begin_anew(b"end %d;" % session, b"head %d;" % (session + 1))
            session += 1
    backlog.finish(b"end %d;" % session)
    sent += rest_of(follower, most)
    for stream in (sent, all_of(backlog, most)):
        opened, newest = -1, -1
        is_open = False
        for what, *numbers in (message.split() for message in stream.decode().split(";")[:-1]):
            if what == "head":
                assert not is_open
                assert int(numbers[0]) > opened
                opened, is_open = int(numbers[0]), True
            elif what == "item":
                assert int(numbers[2]) == opened
                assert int(numbers[0]) > newest
                newest = int(numbers[0])
            else:
                assert int(numbers[0]) == opened
                is_open = False
            assert is_open or what == "end"
        assert (opened, is_open, newest) == (session, False, number - 1)


@given(st.lists(st.sampled_from(["put", "anew"]), max_size=60))
def test_sessions_are_forgotten_with_their_last_item(steps: list[str]) -> None:
    """A clock that is set back every minute for a year costs no memory."""
    backlog = Backlog(4)
    for step in steps:
        if step == "put":
            backlog.put(b"item;")
        else:
            backlog.begin_anew(b"end;", b"head;")
    assert len(backlog._sessions) <= 4 + 1


def test_only_the_first_loss_is_reported() -> None:
    backlog = Backlog(2)
    assert [backlog.put(tick(number)) for number in range(5)] == [False, False, True, False, False]


def test_a_thousand_vms_of_twenty_series_fit_into_two_hundred_megabytes() -> None:
    """Twenty of them are for the process itself."""
    vms = 20
    tracemalloc.start()
    try:
        backlogs = [Backlog() for _ in range(vms)]
        for number in range(700):
            values = struct.pack("<20d", *[number / 7] * 20)
            for backlog in backlogs:
                backlog.put(encode(Tick(1_732_300_000_000 + number, values)))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / vms * 1000 < 180e6


def test_untaken_counts_kept_items_that_no_follower_has_taken() -> None:
    backlog = Backlog(3)
    backlog.begin(b"h")
    follower = Follower(backlog)
    for number in range(2):
        backlog.put(b"%d" % number)
    assert backlog.untaken == 2
    follower.next(100)
    assert backlog.untaken == 0
    for number in range(2, 9):
        backlog.put(b"%d" % number)
    assert (backlog.untaken, backlog.dropped) == (3, 4)


def test_the_last_session_with_its_last_item_is_a_whole_stream() -> None:
    backlog = Backlog(3)
    backlog.begin(b"<a>")
    assert backlog.last == b"<a>"
    backlog.put(b"1")
    backlog.put(b"2")
    backlog.begin_anew(b"</a>", b"<b>")
    assert backlog.last == b"<b>"
    backlog.put(b"3")
    backlog.finish(b"</b>")
    assert backlog.last == b"<b>3</b>"
