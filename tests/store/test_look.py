"""The reader of format 2 against brute force over the ticks that were written."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools import stream
from rondo_tools.catalog import Series
from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store import bulk, journal_rows, journal_view
from rondo_tools.store.check import Checker
from rondo_tools.store.derived_view import EndedView, RowsView
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.state import Eviction
from rondo_tools.store.journal_view import JournalView
from rondo_tools.store.reader import Question, Session, Store, Wanted
from rondo_tools.store.snapshot import Files
from tests.support.rounds import IN_ROUNDS
from tests.support.store import look_truth as truth
from tests.support.store import mini_reader, race_writer
from tests.support.store.journal_fixtures import SCHEMAS, SMALL_TIERS, T0, Writer

pytestmark = pytest.mark.usefixtures("no_waits_in_module")

KEYS = (("vm-1", T0), ("vm-1", T0 + 1), ("vm-2", T0), ("vm/ü", T0 + 7))
STEPS = (
    "tick",
    "tick",
    "tick",
    "tick",
    "end",
    "lost",
    "flush",
    "rotate",
    "roll_up",
    "finish",
    "remove",
    "look",
)


def check(path: Path, writer: Writer, store: Store | None = None) -> None:
    """All that a store serves is what was written to it, after any `after_ms`."""
    assert list(Checker(path).findings()) == []
    store = store or Store(path)
    sessions = {one.key: one for one in store.sessions()}
    lives = {key: life for key, life in writer.lives.items() if life.ticks or life.ends}
    assert sessions.keys() == lives.keys()
    for key, session in sessions.items():
        life = lives[key]
        truth.check_listed(session, life)
        for after_ms in (0, life.last_ms - 4_000):
            assert truth.served(session, 0, after_ms) == truth.raw(
                [one for one in writer.there(key) if one.t_ms > after_ms]
            )
            for tier in range(1, len(store.tiers)):
                expected = truth.rolled_up(life.ticks, store.tiers[tier].interval_ms)
                expected = {t_ms: row for t_ms, row in expected.items() if t_ms > after_ms}
                assert truth.served(session, tier, after_ms) == expected
    check_together(store, writer)


def check_together(store: Store, writer: Writer) -> None:
    """Read all at once, sessions have the same rows."""
    sessions = store.sessions()
    last_ms = max((one.last_ms for one in sessions), default=0)
    for tier, aggregate in [(0, "avg"), *((tier, "max") for tier in range(1, len(store.tiers)))]:
        for after_ms, until_ms in ((0, 1 << 62), (last_ms - 20_000, last_ms - 1_000)):
            question = Question(tier, after_ms, until_ms, aggregate)
            for session, pieces in zip(
                sessions, store.read([Wanted(one, every) for one in sessions], question), strict=True
            ):
                rows = session.rows(tier, after_ms)
                columns = [
                    (at, session.header.series[column.series].name, column.aggregate)
                    for at, column in enumerate(session.columns(tier))
                    if column.aggregate in ("last", aggregate)
                ]
                expected = {
                    t_ms: {name: truth.bits(row[at]) for at, name, _ in columns if row[at] == row[at]}
                    for t_ms, row in zip(rows.t_ms.tolist(), rows.values.tolist(), strict=True)
                    if t_ms <= until_ms
                }
                assert truth.in_pieces(pieces) == expected


def every(series: tuple[Series, ...]) -> tuple[int, ...]:
    return tuple(range(len(series)))


def check_mini_reader(path: Path, writer: Writer) -> None:
    """A reader that was written from docs/formats.md alone finds the same."""
    ticks, coarse, descriptions = mini_reader.read(path, [tier.interval_ms for tier in writer.tiers])
    found: dict[object, dict[int, truth.Row]] = {}
    for (key, t_ms), row in ticks.items():
        found.setdefault(key, {})[t_ms] = truth_row(row)
    expected = {key: truth.raw(writer.there(key)) for key, life in writer.lives.items()}
    assert found == {key: rows for key, rows in expected.items() if rows}
    for tier, coarse_rows in enumerate(coarse, 1):
        for key, life in writer.lives.items():
            mine = {t_ms: truth_row(row) for (one, _), (t_ms, row) in coarse_rows.items() if one == key}
            assert mine == truth.rolled_up(life.ticks, writer.tiers[tier].interval_ms)
    for key, (instance, start_ms, *_, first_ms, last_ms, count, _, _) in descriptions.items():
        assert (instance, start_ms) == key
        assert first_ms == (writer.lives[key].ticks[0].t_ms if count else 0)
        assert last_ms <= writer.lives[key].last_ms


def truth_row(row: mini_reader.Row) -> truth.Row:
    return {(series[0], what): truth.bits(value) for (series, what), value in row.items() if value == value}


@IN_ROUNDS
@pytest.mark.heavy
@settings(max_examples=60)
@given(st.data())
def test_the_reader_returns_the_written_rows(round_: int, data: st.DataObject) -> None:
    """Sessions that begin, change their schema, end, are lost and come back, over journals and roll-ups."""
    random = data.draw(st.randoms(use_true_random=False))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # What is for large journals and many sessions must be right in small ones, too.
        for module, name, value in (
            (journal_view, "_FEW", -1),
            (bulk, "_FEW", -1),
            (journal_view, "_MUCH", -1),
            (journal_rows, "_STRETCH", 150),
            (journal_rows, "_GAP", 0),
        ):
            if random.random() < 0.5:
                patch.setattr(module, name, value)
        path = Path(folder)
        with Writer(path, SMALL_TIERS, seed=random.randrange(1 << 30), per_frame=3, last_ms=20_000) as writer:
            store = Store(path)
            schemas = dict.fromkeys(KEYS, SCHEMAS[0])
            for step in data.draw(st.lists(st.sampled_from(STEPS), max_size=60)):
                key = random.choice(KEYS)
                life = writer.lives.get(key)
                is_over = life is not None and life.end is not None and life.end.reason != "lost"
                if step == "tick" and not is_over:
                    if random.random() < 0.2:
                        schemas[key] = random.choice(SCHEMAS)
                    t_ms = life.last_ms if life else T0
                    for _ in range(random.randrange(1, 5)):
                        t_ms += random.choice((1, 700, 1000, 1000, 2500, 12_000))
                        values = [random.choice((float("nan"), random.uniform(-1e6, 1e6))) for _ in range(3)]
                        writer.tick(key, t_ms, values[: schemas[key].width], schemas[key])
                elif step == "end" and not is_over and life is not None:
                    writer.end(key, random.choice(("poweroff", "crash", "clock")))
                elif step == "lost" and life is not None and life.end is None and life.ticks:
                    writer.end(key, "lost", life.last_ms)
                elif step == "flush":
                    writer.flush()
                elif step == "rotate":
                    writer.rotate()
                elif step == "roll_up":
                    writer.roll_up()
                elif step == "finish":
                    writer.finish_derived(index=random.random() < 0.7)
                elif step == "remove":
                    writer.remove_journals(writer.wanted_from() - 1)
                elif step == "look":
                    writer.flush()
                    check(path, writer, store)
            writer.flush()
            check(path, writer, store)
            check(path, writer)
            if writer.state.carry:
                check_mini_reader(path, writer)


def check_moment(found: list[Session], some: slice = slice(None)) -> int:
    """What a look found is what there was at one moment; gives the time of its newest tick."""
    newest_ms = max((one.last_ms for one in found), default=0)
    for session in found[some]:
        ticks = race_writer.ticks_until((session.instance, session.start_ms), session.last_ms)
        assert session.ticks == len(ticks)
        if session.end is not None:
            assert len(ticks) == race_writer.LIFE
        served = truth.served(session, 0)
        expected = truth.raw(ticks)
        assert served == {t_ms: expected[t_ms] for t_ms in served}
        last = range(max(session.first_ms, session.last_ms - 19_000), session.last_ms + 1, 1000)
        assert set(last) <= served.keys()
        for tier in (1, 2):
            interval_ms = SMALL_TIERS[tier].interval_ms
            assert truth.served(session, tier) == truth.rolled_up(ticks, interval_ms)
    lives = {one.start_ms for one in found}
    assert lives == set(range(T0, newest_ms, 1000 * race_writer.LIFE))
    return newest_ms


@IN_ROUNDS
@pytest.mark.heavy
@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=15)
def test_a_writer_may_continue_between_any_two_steps_of_a_look(round_: int, seed: int) -> None:
    """It writes, rotates, rolls up and removes in each of them: no tick is missing, none is there twice."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder, race_writer.a_writer(Path(folder)) as writer:
        race = race_writer.Race(writer)
        for _ in range(random.randrange(8)):
            race.cycle()
        budget = 0

        def step() -> None:
            nonlocal budget
            if budget and random.random() < 0.3:
                budget -= 1
                for _ in range(random.choice((1, 1, 2, 12))):
                    race.cycle()

        store = Store(writer.layout.path)
        with between_steps(step):
            for _ in range(3):
                before_ms, budget = race.t_ms, random.randrange(8)
                found = store.sessions()
                assert before_ms <= (check_moment(found) or T0) <= race.t_ms


@contextmanager
def between_steps(step: Callable[[], None]) -> Iterator[None]:
    """Call `step` before whatever a look does to the file system."""
    patch = pytest.MonkeyPatch()
    for owner, name in (
        (Layout, "numbers"),
        (Files, "_view"),
        (Files, "_read_state"),
        (Files, "_read_carry"),
        (JournalView, "update"),
        (RowsView, "read"),
        (EndedView, "read"),
    ):
        original = getattr(owner, name)

        def stepping(*args: Any, original: Callable[..., Any] = original) -> Any:
            step()
            return original(*args)

        patch.setattr(owner, name, stepping)
    try:
        yield
    finally:
        patch.undo()


def test_a_reader_races_a_writer(tmp_path: Path) -> None:
    """As two processes, which nothing holds in step."""
    path, cycles = tmp_path / "store", 150
    race_writer.a_writer(path).close()
    writer = subprocess.Popen(
        [sys.executable, race_writer.__file__, path, str(cycles)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        store, newest_ms = Store(path), 0
        while newest_ms < T0 + 3000 * cycles:
            status = writer.poll()
            found = store.sessions()
            before_ms, newest_ms = newest_ms, check_moment(found, slice(-2, None))
            assert newest_ms >= before_ms
            assert status is None or (status == 0 and newest_ms == T0 + 3000 * cycles)
        check_moment(found)
    finally:
        writer.kill()
        writer.wait()
    assert list(Checker(path).findings()) == []


# --- what is asked for --------------------------------------------------------------------------------


def test_filters_by_instance_and_time(written: Writer) -> None:
    store = Store(written.layout.path)
    everything = store.sessions()
    assert [one.key for one in everything] == sorted(one.key for one in everything)
    assert [one.key for one in store.sessions(instance="vm-1")] == [("vm-1", T0)]
    assert store.sessions(instance="vm") == []
    for since_ms in {one.last_ms + more for one in everything for more in (0, 1)}:
        expected = [one.key for one in everything if one.last_ms >= since_ms or one.end is None]
        assert [one.key for one in store.sessions(since_ms=since_ms)] == expected
        some = [one.key for one in store.sessions(instance="vm-2", since_ms=since_ms)]
        assert some == [key for key in expected if key[0] == "vm-2"]


def test_evictions_are_reported(written: Writer) -> None:
    assert Store(written.layout.path).evictions == []
    written.state.evictions.append(Eviction(0, T0, T0 + 5, 99, delivered=False))
    written.commit()
    assert Store(written.layout.path).evictions == [Eviction(0, T0, T0 + 5, 99, delivered=False)]


def test_a_session_without_a_tick_is_listed_after_its_end(tmp_path: Path) -> None:
    with Writer(tmp_path, SMALL_TIERS) as writer:
        writer.end(("vm-1", T0), "error", T0 + 5)
        writer.flush()
        (session,) = Store(tmp_path).sessions()
        assert (session.end, session.ticks, session.first_ms) == (stream.End("error", T0 + 5), 0, 0)
        assert session.rows().t_ms.size == session.rows(1).t_ms.size == 0


def test_a_missing_store_or_another_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store there") as caught:
        Store(tmp_path)
    assert caught.value.exit_code == EX_UNAVAILABLE
    (tmp_path / "store.json").write_text('{"rondo_store": 1, "tiers": "1s:10m"}')
    with pytest.raises(StoreError, match="format 1"):
        Store(tmp_path)


def test_sessions_of_an_earlier_look_read_removed_files(written: Writer) -> None:
    store = Store(written.layout.path)
    before = {one.key: one for one in store.sessions()}
    written.rotate()
    written.roll_up()
    written.remove_journals(written.newest)
    after = {one.key: one for one in store.sessions()}
    old, new = before["vm-1", T0].rows(), after["vm-1", T0].rows()
    assert old.t_ms.tolist() == [one.t_ms for one in written.lives["vm-1", T0].ticks]
    assert new.t_ms.size == 0  # a live session's journals: this test took what retention would not
    assert after["vm-1", T0].rows(1).t_ms.tolist() == before["vm-1", T0].rows(1).t_ms.tolist()
