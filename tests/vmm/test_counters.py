"""The counters: no count is lost, and snapshots are consistent."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.catalog import BLOCK_OPS, EXIT_REASONS
from rondo_tools.vmm.counters import Counters, CounterSum, Snapshot

ns = st.integers(0, 2**40)


@given(
    st.lists(st.tuples(st.sampled_from(EXIT_REASONS), ns, ns)),
    st.lists(st.tuples(st.sampled_from(BLOCK_OPS), st.integers(0, 2**32), ns)),
)
def test_a_snapshot_is_the_sum_of_the_counts(
    exits: list[tuple[str, int, int]], blocks: list[tuple[str, int, int]]
) -> None:
    counters = Counters()
    for exit in exits:
        counters.count_exit(*exit)
    for block in blocks:
        counters.count_block(*block)
    assert counters.snapshot() == Snapshot(
        exits=tuple(sum(r == reason for r, _, _ in exits) for reason in EXIT_REASONS),
        run_ns=sum(run for _, run, _ in exits),
        exit_ns=sum(handled for _, _, handled in exits),
        block_requests=tuple(sum(o == op for o, _, _ in blocks) for op in BLOCK_OPS),
        block_bytes=tuple(sum(size for o, size, _ in blocks if o == op) for op in BLOCK_OPS),
        block_ns=sum(took for _, _, took in blocks),
    )


def test_nothing_counted_is_the_empty_snapshot() -> None:
    assert Counters().snapshot() == Snapshot()


@pytest.mark.heavy
def test_snapshots_taken_while_counting_are_consistent() -> None:
    counters = Counters()
    enough = threading.Event()

    def count() -> None:
        while not enough.is_set():
            for number in range(15):
                counters.count_exit(EXIT_REASONS[number % 5], 3, 7)
                counters.count_block(BLOCK_OPS[number % 3], 512, 11)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    writer = threading.Thread(target=count)
    seen: list[Snapshot] = []
    try:
        writer.start()
        while len({snapshot.exits for snapshot in seen[-1000:]}) < 30:  # the race is on
            seen.append(counters.snapshot())
    finally:
        enough.set()
        writer.join()
        sys.setswitchinterval(interval)
    for snapshot in seen:
        assert snapshot.run_ns == 3 * sum(snapshot.exits)
        assert snapshot.exit_ns == 7 * sum(snapshot.exits)
        assert snapshot.block_ns == 11 * sum(snapshot.block_requests)
        assert sum(snapshot.block_bytes) == 512 * sum(snapshot.block_requests)


def test_several_writers_lose_nothing_and_are_summed() -> None:
    """Each vCPU has its own counters; every snapshot is consistent, and the last one has everything."""
    reasons = ("io", "mmio", "io")
    each = [Counters() for _ in reasons]
    together = CounterSum([*each, Counters()], lambda: 17)
    counted = [0, 0, 0]
    enough = threading.Event()

    def count(writer: int) -> None:
        while not enough.is_set():
            each[writer].count_exit(reasons[writer], 3, 7)
            counted[writer] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    writers = [threading.Thread(target=count, args=(writer,)) for writer in range(3)]
    seen: list[Snapshot] = []
    try:
        for writer in writers:
            writer.start()
        while len({snapshot.exits for snapshot in seen}) < 30:  # the race is on
            seen.append(together.snapshot())
    finally:
        enough.set()
        for writer in writers:
            writer.join()
        sys.setswitchinterval(interval)
    totals = [sum(snapshot.exits) for snapshot in seen]
    assert totals == sorted(totals)
    for snapshot in seen:
        assert (snapshot.run_ns, snapshot.exit_ns) == (3 * sum(snapshot.exits), 7 * sum(snapshot.exits))
    io, mmio = counted[0] + counted[2], counted[1]
    last = together.snapshot().exits_by_reason()
    assert last == {"io": io, "mmio": mmio, "hlt": 17, "shutdown": 0, "other": 0}


def test_halts_in_the_kernel_are_exits_that_were_not_handled() -> None:
    counters = Counters()
    counters.count_exit("hlt", 1, 2)
    snapshot = CounterSum([counters], lambda: 5).snapshot()
    assert (sum(snapshot.exits), snapshot.exits_by_reason()["hlt"]) == (1, 6)
    assert CounterSum([counters], lambda: None).snapshot().exits_by_reason()["hlt"] == 1
