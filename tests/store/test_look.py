"""The reader of format 2 against brute force over the ticks that were written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import look_truth as truth
import mini_reader
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_fixtures import SCHEMAS, T0, Writer

from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.look import Store

SMALL_TIERS = parse_tiers("1s:10s,3s:60s,9s:9m")
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
    store = store or Store(path)
    sessions = {(one.instance, one.start_ms): one for one in store.sessions()}
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


def truth_row(row: dict[tuple[tuple[str, object, str], str], float]) -> truth.Row:
    return {(series[0], what): truth.bits(value) for (series, what), value in row.items() if value == value}


@settings(max_examples=150)
@given(st.data())
def test_what_is_served_is_what_was_written(data: st.DataObject) -> None:
    """Sessions that begin, change their schema, end, are lost and come back, over journals and roll-ups."""
    random = data.draw(st.randoms(use_true_random=False))
    with tempfile.TemporaryDirectory() as folder:
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
