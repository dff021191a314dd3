"""The counters: nothing is lost, and what a reader sees belongs together."""

from __future__ import annotations

import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.catalog import BLOCK_OPS, EXIT_REASONS
from rondo_tools.vmm.meter import Meter, Snapshot

ns = st.integers(0, 2**40)


@given(
    st.lists(st.tuples(st.sampled_from(EXIT_REASONS), ns, ns)),
    st.lists(st.tuples(st.sampled_from(BLOCK_OPS), st.integers(0, 2**32), ns)),
)
def test_a_snapshot_is_the_sum_of_what_was_counted(
    exits: list[tuple[str, int, int]], blocks: list[tuple[str, int, int]]
) -> None:
    meter = Meter()
    for exit in exits:
        meter.count_exit(*exit)
    for block in blocks:
        meter.count_block(*block)
    assert meter.snapshot() == Snapshot(
        exits=tuple(sum(r == reason for r, _, _ in exits) for reason in EXIT_REASONS),
        run_ns=sum(run for _, run, _ in exits),
        exit_ns=sum(handled for _, _, handled in exits),
        block_requests=tuple(sum(o == op for o, _, _ in blocks) for op in BLOCK_OPS),
        block_bytes=tuple(sum(size for o, size, _ in blocks if o == op) for op in BLOCK_OPS),
        block_ns=sum(took for _, _, took in blocks),
    )


def test_nothing_counted_is_the_empty_snapshot() -> None:
    assert Meter().snapshot() == Snapshot()


def test_snapshots_taken_while_counting_are_consistent() -> None:
    meter = Meter()
    done = threading.Event()

    def count() -> None:
        for number in range(60_000):
            meter.count_exit(EXIT_REASONS[number % 5], 3, 7)
            meter.count_block(BLOCK_OPS[number % 3], 512, 11)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer = threading.Thread(target=count)
        writer.start()
        seen: list[Snapshot] = []
        while not done.is_set():
            seen.append(meter.snapshot())
        writer.join()
    finally:
        sys.setswitchinterval(interval)
    assert len({sum(snapshot.exits) for snapshot in seen}) > 2  # the race was on
    for snapshot in seen:
        assert snapshot.run_ns == 3 * sum(snapshot.exits)
        assert snapshot.exit_ns == 7 * sum(snapshot.exits)
        assert snapshot.block_ns == 11 * sum(snapshot.block_requests)
        assert sum(snapshot.block_bytes) == 512 * sum(snapshot.block_requests)
