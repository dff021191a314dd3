"""The drain: what is closed, in which order, cut where, and how far the cursor goes with it."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receivers import T0, TWO_SERIES, expected, fill, header, labels_of, seconds, ticks

from rondo_tools.push.cursor import Mark
from rondo_tools.push.drain import Drain
from rondo_tools.push.encoding.v1 import decode, encode
from rondo_tools.push.model import Batch, Labels
from rondo_tools.store.reader import Store
from rondo_tools.store.slab import HEADER_SIZE
from rondo_tools.stream import Header

FAR = T0 + 3_600_000  # a clock by which all is long past


def drain(path: Path, max_samples: int = 10_000) -> Drain:
    return Drain(Store(path), labels_of, max_samples)


def batches(path: Path, marks: dict[str, Mark] | None = None, now_ms: int = FAR, **more: int) -> list[Batch]:
    return list(drain(path, **more).batches(marks or {}, now_ms))


def times(found: list[Batch], instance: str = "vm-1") -> list[int]:
    """The times of an instance's first series, in the order in which they are sent."""
    sent = []
    for batch in found:
        for series in decode(encode(batch.blocks)).timeseries:
            labels = {label.name: label.value for label in series.labels}
            if labels["instance"] == instance and labels["__name__"] == "cpu_total":
                sent += [sample.timestamp - T0 for sample in series.samples]
    return sent


def test_all_rows_of_an_ended_session_and_its_end(tmp_path: Path) -> None:
    fill(tmp_path, header(), seconds(3), "poweroff")
    (batch,) = batches(tmp_path, now_ms=T0)
    assert times([batch]) == [0, 1000, 2000, 2001]
    assert all(map(math.isnan, batch.blocks[0].values[-1]))
    assert batch.marks == {f"vm-1/{T0 - 500}": Mark(T0 + 2001, True)}
    assert batches(tmp_path, dict(batch.marks)) == []


def test_what_was_delivered_to_its_end_is_not_got_ready_again(tmp_path: Path) -> None:
    """A store remembers VMs for a week: with short lives, tens of thousands that are over."""
    fill(tmp_path, header(), seconds(3), "poweroff")
    (batch,) = batches(tmp_path)
    fill(tmp_path, header(start_ms=T0 + 60_000), seconds(3, T0 + 61_000))
    labelled: list[int] = []

    def labels(header: Header) -> tuple[Labels, ...]:
        labelled.append(header.start_ms)
        return labels_of(header)

    assert times(list(Drain(Store(tmp_path), labels).batches(batch.marks, FAR))) == [61_000, 62_000, 63_000]
    assert labelled == [T0 + 60_000]


def test_an_end_that_comes_later_is_sent_later(tmp_path: Path) -> None:
    fill(tmp_path, header(), seconds(3))
    (first,) = batches(tmp_path)
    assert times([first]) == [0, 1000, 2000]
    fill(tmp_path, header(), [], "signal")
    (second,) = batches(tmp_path, dict(first.marks))
    assert times([second]) == [2001]


@pytest.mark.parametrize(
    ("now_ms", "closed_ms", "sent"),
    [
        (T0 + 2000, 0, [0, 1000]),  # a later row closes the slots before
        (T0 + 7999, 0, [0, 1000]),
        (T0 + 8000, 0, [0, 1000, 2000]),  # the slot's end is 5 s past
        (T0 + 2000, T0 + 1999, [0, 1000]),
        (T0 + 2000, T0 + 2000, [0, 1000, 2000]),  # rondo-store says so
    ],
)
def test_only_closed_slots_are_sent(tmp_path: Path, now_ms: int, closed_ms: int, sent: list[int]) -> None:
    fill(tmp_path, header(), seconds(3))
    found = drain(tmp_path).batches({}, now_ms, {f"vm-1/{T0 - 500}": closed_ms})
    assert times(list(found)) == sent


@pytest.mark.parametrize("delivered_ms", [0, T0 + 1000], ids=["the whole ring", "what is new"])
def test_rows_that_are_written_while_we_read_leave_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered_ms: int
) -> None:
    """While a read goes up the slab, the writer puts one row behind it and the next one before it."""
    fill(tmp_path, header(), seconds(5))
    (session,) = Store(tmp_path).sessions()
    pread = os.pread
    behind = HEADER_SIZE + ((T0 + 6000) // 1000 % 600) * (16 + 8 * len(TWO_SERIES))

    def torn_read(fd: int, size: int, at: int) -> bytes:
        if not at < behind < at + size:
            return pread(fd, size, at)
        monkeypatch.setattr(os, "pread", pread)
        low = pread(fd, behind - at, at)
        fill(tmp_path, header(), seconds(2, T0 + 5000))
        return low + pread(fd, size - len(low), behind)

    monkeypatch.setattr(os, "pread", torn_read)
    marks = {session.key: Mark(delivered_ms)} if delivered_ms else {}
    found = times(batches(tmp_path, marks, T0 + 20_000))
    assert os.pread is pread
    assert found == list(range(2000 if delivered_ms else 0, 7000, 1000))


def test_rows_that_belong_together_travel_together(tmp_path: Path) -> None:
    """Within a slice of time the order is by instance; that over slices, test_push_outage.py has."""
    for instance in ("a", "b", "c"):
        fill(tmp_path, header(instance), seconds(4), "poweroff")
    found = batches(tmp_path, max_samples=10)
    assert [[len(block.t_ms) for block in batch.blocks] for batch in found] == [[5], [5], [5]]


@pytest.mark.parametrize(
    ("max_samples", "rows"),
    [
        (32, [[5, 5, 5], [5, 5]]),
        (28, [[5, 5, 4], [1, 5, 5]]),
        (8, [[4], [1, 3], [2, 2], [3, 1], [4], [4], [1]]),
    ],
)
def test_a_session_is_not_cut_where_a_request_is_nearly_full_without_it(
    tmp_path: Path, max_samples: int, rows: list[list[int]]
) -> None:
    for instance in "abcde":
        fill(tmp_path, header(instance), seconds(4), "poweroff")
    found = [
        [len(block.t_ms) for block in batch.blocks] for batch in batches(tmp_path, max_samples=max_samples)
    ]
    assert found == rows


def test_a_tick_is_never_cut(tmp_path: Path) -> None:
    fill(tmp_path, header(), seconds(3), "poweroff")
    assert [batch.samples for batch in batches(tmp_path, max_samples=1)] == [2, 2, 2, 2]


def test_a_dead_life_is_not_overtaken_by_the_next(tmp_path: Path) -> None:
    """The last tick of a VM that was killed is not closed yet when the next life's first ticks are."""
    fill(tmp_path, header(start_ms=T0), seconds(2))
    fill(tmp_path, header(start_ms=T0 + 1500), seconds(3, T0 + 1600))
    early = batches(tmp_path, now_ms=T0 + 3700)
    assert times(early) == [0]
    late = batches(tmp_path, dict(early[0].marks), now_ms=T0 + 60_000)
    assert times(late) == [1000, 1600, 2600, 3600]


def test_the_next_life_goes_on_without_a_marker(tmp_path: Path) -> None:
    fill(tmp_path, header(start_ms=T0), seconds(2), "reset")
    fill(tmp_path, header(start_ms=T0 + 1001), seconds(1, T0 + 1001), "poweroff")
    found = batches(tmp_path)
    assert times(found) == [0, 1000, 1001, 1002]
    assert all(mark.ended for batch in found for mark in batch.marks.values())


def test_a_life_that_begins_later_comes_after_the_marker(tmp_path: Path) -> None:
    fill(tmp_path, header(start_ms=T0), seconds(1), "reset")
    fill(tmp_path, header(start_ms=T0 + 5000), seconds(1, T0 + 5000))
    assert times(batches(tmp_path)) == [0, 1, 5000]


def test_a_clock_set_back_is_passed_over_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, header(start_ms=T0), seconds(3), "reset")
    (first,) = batches(tmp_path)
    fill(tmp_path, header(start_ms=T0 - 2000), seconds(6, T0 - 1000), "poweroff")
    (second,) = batches(tmp_path, dict(first.marks))
    assert times([second]) == [3000, 4000, 4001]
    assert second.passed_over == 4 * 2
    marks = {**first.marks, **second.marks}
    assert batches(tmp_path, marks) == []
    assert marks[f"vm-1/{T0 - 2000}"] == Mark(T0 + 4001, True)


def test_two_lives_at_once_give_each_time_once(tmp_path: Path) -> None:
    fill(tmp_path, header(start_ms=T0), ticks((T0, [1, 1]), (T0 + 1000, [2, 2])), "reset")
    fill(tmp_path, header(start_ms=T0 - 5), ticks((T0, [7, 7]), (T0 + 1500, [8, 8])), "reset")
    found = batches(tmp_path)
    assert times(found) == [0, 1000, 1001, 1500, 1501]
    assert sum(batch.passed_over for batch in found) == 2
    assert found[0].blocks[0].values[0][0] == 7


def test_a_session_without_a_tick_ends_without_a_word(tmp_path: Path) -> None:
    fill(tmp_path, header(start_ms=T0 + 9000), [], "error")
    fill(tmp_path, header(start_ms=T0), seconds(2), "reset")
    found = batches(tmp_path)
    assert times(found) == [0, 1000, 1001]
    marks = {key: mark for batch in found for key, mark in batch.marks.items()}
    assert marks[f"vm-1/{T0 + 9000}"] == Mark(0, True)


def test_ticks_ahead_of_the_clock_wait_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, header(), seconds(100), "poweroff")
    one = drain(tmp_path)
    assert times(list(one.batches({}, T0))) == [second * 1000 for second in range(61)]
    list(one.batches({}, T0))
    assert [record.message.count("held back") for record in caplog.records] == [1]
    assert len(times(batches(tmp_path, now_ms=T0 + 60_000))) == 101


def test_marks_of_what_left_the_store_are_forgotten_but_for_the_instances_newest(tmp_path: Path) -> None:
    fill(tmp_path, header("vm-1"), seconds(1))
    marks = {
        f"vm-1/{T0 - 500}": Mark(T0),
        "vm-1/1": Mark(T0 - 5),
        "vm-1/2": Mark(T0 + 5),
        "gone/1": Mark(T0),
    }
    assert sorted(drain(tmp_path).gone(marks)) == ["gone/1", "vm-1/1"]


def test_marks_never_go_back_from_batch_to_batch(tmp_path: Path) -> None:
    """The end that is not sent, since the next life goes on, may be all of a session in a batch."""
    fill(tmp_path, header(start_ms=T0), seconds(2), "reset")
    fill(tmp_path, header(start_ms=T0 + 1000), seconds(3, T0 + 1001))
    marks: dict[str, Mark] = {}
    for batch in batches(tmp_path, max_samples=1):
        for key, mark in batch.marks.items():
            assert mark.delivered_ms >= marks.get(key, Mark()).delivered_ms
            marks[key] = mark
    assert marks[f"vm-1/{T0}"] == Mark(T0 + 1000, True)


def test_a_store_that_is_away_forgets_nothing(tmp_path: Path) -> None:
    fill(tmp_path, header("vm-1"), seconds(1))
    one = drain(tmp_path)
    (tmp_path / "instances").rename(tmp_path / "away")
    assert one.gone({f"vm-1/{T0 - 500}": Mark(T0)}) == []


def test_a_session_that_cannot_be_read_is_not_overtaken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, header(start_ms=T0), seconds(2), "reset")
    fill(tmp_path, header(start_ms=T0 + 5000), seconds(2, T0 + 5000), "reset")
    fill(tmp_path, header("other"), seconds(2), "reset")
    slab = tmp_path / "instances" / "vm-1" / str(T0) / "tier_0.slab"
    hidden = slab.with_name("hidden")
    slab.rename(hidden)
    found = batches(tmp_path)
    assert (times(found), times(found, "other")) == ([], [0, 1000, 1001])
    assert "cannot be read" in caplog.text
    slab.write_bytes(b"damaged")
    assert times(batches(tmp_path)) == [5000, 6000, 6001]
    hidden.rename(slab)
    assert times(batches(tmp_path)) == [0, 1000, 1001, 5000, 6000, 6001]


LIVES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "a/b"]),
        st.integers(0, 20_000),
        st.integers(0, 12),
        st.sampled_from([None, "poweroff"]),
    ),
    max_size=5,
    unique_by=lambda life: life[:2],
)


@pytest.mark.heavy
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(lives=LIVES, max_samples=st.integers(1, 40), clocks=st.lists(st.integers(0, 40_000), max_size=3))
def test_whatever_lives_there_are_the_order_holds(
    tmp_path_factory: pytest.TempPathFactory,
    lives: list[tuple[str, int, int, str | None]],
    max_samples: int,
    clocks: list[int],
) -> None:
    """Pushed at any times: each series ascends over all batches, and what is neither sent nor
    passed over is nothing."""
    path = tmp_path_factory.mktemp("store")
    fill(path, header("z"), [])
    for instance, start, count, end in lives:
        fill(path, header(instance, T0 + start), seconds(count, T0 + start), end)
    marks: dict[str, Mark] = {}
    sent: dict[tuple[tuple[str, str], ...], list[int]] = {}
    samples = passed_over = 0
    for clock in [*sorted(clocks), 100_000]:
        for batch in drain(path, max_samples).batches(dict(marks), T0 + clock):
            marks.update(batch.marks)
            samples += batch.samples
            passed_over += batch.passed_over
            for series in decode(encode(batch.blocks)).timeseries:
                labels = tuple((label.name, label.value) for label in series.labels)
                sent.setdefault(labels, []).extend(sample.timestamp for sample in series.samples)
    for series_times in sent.values():
        assert all(a < b for a, b in pairwise(series_times))
    # Each tick's time is sent, by this life of the instance or by another.
    for labels, values in expected(path, with_ends=False).items():
        assert passed_over or values.keys() <= set(sent.get(labels, []))
    ticks_stored = sum(len(session.rows().t_ms) for session in Store(path).sessions()) * len(TWO_SERIES)
    assert ticks_stored <= samples + passed_over <= ticks_stored + len(lives) * len(TWO_SERIES)
    assert list(drain(path).batches(marks, T0 + 100_000)) == []
