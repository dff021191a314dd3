"""A dump and a restore: the store gives the same answers before and after."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from rondo_tools import stream
from rondo_tools.errors import EX_DATAERR, StoreError
from rondo_tools.store.check import Checker
from rondo_tools.store.forget.client import forget_sessions
from rondo_tools.store.forget.request import parse_forget
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import End, Header
from tests.support.restore_host import answers, dumped, restored
from tests.support.store import look_truth as truth
from tests.support.store.journal_fixtures import SCHEMAS, SMALL_TIERS, T0, Writer, fill
from tests.support.store.stream_model import COUNTS, LEVEL

KEYS = (("vm-1", T0), ("vm-1", T0 + 1), ("vm-2", T0), ("vm/ü", T0 + 7))
STEPS = ("tick",) * 10 + ("end", "lost", "flush", "rotate", "roll_up", "roll_up", "finish", "remove")
TIERS = parse_tiers("1s:40s,5s:20m,20s:1h")


def now_ms() -> int:
    return T0 + 3_600_000


def check(source: Path, target: Path) -> None:
    assert answers(target) == answers(source)
    assert list(Checker(target).findings()) == []


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(n, marks=pytest.mark.long) for n in range(8, 60))]
)
def test_a_restored_store_gives_the_same_answers(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    with Writer(
        tmp_path / "store", SMALL_TIERS, seed=seed, per_frame=chance.choice((1, 3, 64)), last_ms=20_000
    ) as writer:
        t_ms, over = T0, set()
        for _ in range(chance.randint(1, 400)):
            name, key = chance.choice(STEPS), chance.choice(KEYS)
            if name == "tick" and key not in over:
                t_ms += chance.choice((1, 500, 1000, 7000))
                schema = chance.choice(SCHEMAS[: chance.randint(1, 3)])
                values = [chance.choice((float("nan"), chance.random(), 1e9)) for _ in range(schema.width)]
                writer.tick(key, t_ms, values, schema)
            elif name == "end" and key not in over:
                over.add(key)
                writer.end(key)
            elif name == "lost" and key in writer.lives and writer.lives[key].ticks and key not in over:
                writer.end(key, "lost")
            elif name in ("flush", "rotate", "roll_up"):
                getattr(writer, name)()
            elif name == "finish" and writer.state.carry:
                writer.finish_derived()
            elif name == "remove":
                writer.remove_journals(writer.wanted_from() - 1)
        writer.flush()
    # Not checked: if sessions are lost repeatedly, the fixture's own rows are wrong.
    before = answers(tmp_path / "store")
    assert answers(restored(dumped(tmp_path / "store"), tmp_path / "moved", now_ms)) == before
    assert answers(restored(dumped(tmp_path / "moved"), tmp_path / "back", now_ms)) == before


@pytest.mark.heavy
@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(n, marks=pytest.mark.long) for n in range(6, 60))]
)
def test_a_restored_store_continues_like_the_original(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    stay, moved = tmp_path / "stay", tmp_path / "moved 0"
    time_ms = {"vm-1": T0, "vm-2": T0 + 300, "vm-3": T0 + 400}
    begun = dict.fromkeys(time_ms, 0)
    clock = lambda: max(time_ms.values())  # noqa: E731
    for part in range(6):
        messages = b""
        for _ in range(chance.randint(0, 4)):
            name = chance.choice(list(time_ms))
            begun[name] = begun[name] or time_ms[name] - 1
            series = chance.choice(((COUNTS, LEVEL), (COUNTS, LEVEL), (LEVEL,)))
            messages += stream.encode(Header(name, begun[name], (("host", "h"),), 1000, series))
            for _ in range(chance.choice((1, 7, 30, 90))):
                time_ms[name] += 1000
                values = b"".join(chance.randbytes(8) for _ in series)
                messages += stream.encode(stream.Tick(time_ms[name], values))
            if chance.random() < 0.3:
                messages += stream.encode(End("poweroff", time_ms[name]))
                begun[name] = 0
        how = chance.random()
        for path in (stay, moved):
            with OpenStore(path, TIERS, now_ms=clock) as store:
                intake = Intake(store.keeper)
                intake.feed(messages)
                intake.close(give_up=how < 0.2)
                store.keeper.flush()
                if how < 0.6:
                    store.keeper.end_journal()
                    store.keep_house()
        if chance.random() < 0.4:
            restored(dumped(moved), tmp_path / "archive", clock)
        if part < 5:
            data, before = dumped(moved), moved
            moved = restored(data, tmp_path / f"moved {part + 1}", clock)
            check(before, moved)
    check(stay, moved)
    check_archive(stay, restored(dumped(stay), tmp_path / "archive", clock))


def check_archive(source: Path, archive: Path) -> None:
    """It was restored into repeatedly; journals that expired at the source are still there."""
    assert list(Checker(archive).findings()) == []
    has, expected = answers(archive), answers(source)
    assert has.keys() == expected.keys()
    for key, one in expected.items():
        assert set(one.pop("tier 0")[0]) <= set(has[key].pop("tier 0")[0])
        del one["runs"], has[key]["runs"]
        assert has[key] == one


def test_the_row_of_an_open_window_is_restored_once_it_is_closed(tmp_path: Path) -> None:
    """Its last tick is the last one of the archive."""
    archive = tmp_path / "archive"
    with Writer(tmp_path / "store", SMALL_TIERS) as writer:
        for second in range(9):  # up to the end of a window of each tier
            writer.tick(KEYS[0], T0 + 1000 * second)
        writer.rotate()
        writer.roll_up()
        restored(dumped(tmp_path / "store"), archive, now_ms)
        writer.tick(KEYS[0], T0 + 30_000)
        writer.rotate()
        writer.roll_up()
        restored(dumped(tmp_path / "store"), archive, now_ms)
    check(tmp_path / "store", archive)


def test_a_dump_restored_again_changes_nothing(tmp_path: Path) -> None:
    with Writer(tmp_path / "store", SMALL_TIERS) as writer:
        fill(writer)
    data = dumped(tmp_path / "store")
    restored(data, tmp_path / "moved", now_ms)
    before = contents(tmp_path / "moved")
    restored(data, tmp_path / "moved", now_ms)
    assert contents(tmp_path / "moved") == before


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() and one.name != "lock"
    }


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


# --- other tiers --------------------------------------------------------------------------------------


def test_rows_go_to_the_tier_of_their_interval(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tier that the dump lacks is rolled up from its ticks; one that the store lacks is left out."""
    path, other = tmp_path / "store", parse_tiers("1s:10s,9s:9m,27s:27m")
    with Writer(path, SMALL_TIERS) as writer:
        fill(writer)
    data = dumped(path)
    with pytest.raises(StoreError, match=r"27 rows left out \(--partial allows that\)") as raised:
        restored(data, tmp_path / "other", now_ms, tiers=other)
    assert raised.value.exit_code == EX_DATAERR
    assert "has no tier of 3s (1s:10s,9s:9m,27s:27m): 27 rows left out" in caplog.text
    restored(data, tmp_path / "partial", now_ms, tiers=other, partial=True)
    before, ticks = answers(path), {key: life.ticks for key, life in writer.lives.items()}
    for name in ("other", "partial"):
        moved = Store(tmp_path / name)
        assert moved.tiers == other
        assert list(Checker(tmp_path / name).findings()) == []
        after = answers(tmp_path / name)
        for session in moved.sessions():
            key = session.instance, session.start_ms
            assert after[key]["tier 0"] == before[key]["tier 0"]
            assert after[key]["tier 1"] == before[key]["tier 2"]
            assert truth.served(session, 2) == truth.rolled_up(ticks[key], 27_000)


def test_a_new_store_gets_the_tiers_of_the_dump(tmp_path: Path) -> None:
    with Writer(tmp_path / "store", SMALL_TIERS) as writer:
        fill(writer)
    restored(dumped(tmp_path / "store"), tmp_path / "moved", now_ms)
    assert Store(tmp_path / "moved").tiers == SMALL_TIERS
    with pytest.raises(StoreError, match="which cannot be changed"):
        restored(dumped(tmp_path / "store"), tmp_path / "moved", now_ms, tiers=TIERS)


# --- some sessions ------------------------------------------------------------------------------------


def test_a_dump_of_some_sessions_has_nothing_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Writer(path, SMALL_TIERS, per_frame=7) as writer:
        writer.tick(("secret", T0), T0 + 1, labels=(("password", "sesame"),))
        writer.end(("secret", T0))
        fill(writer)
        writer.tick(("secret", T0 + 5), T0 + 90_000, labels=(("password", "sesame"),))
    before = answers(path)
    keys = {key for key in before if key[0] == "vm-2"}
    data = dumped(path, keys)
    assert b"secret" not in data and b"sesame" not in data and b"vm-1" not in data
    moved = restored(data, tmp_path / "moved", now_ms)
    assert answers(moved) == {key: one for key, one in before.items() if key in keys}
    assert list(Checker(moved).findings()) == []
    rest = restored(dumped(path, before.keys() - keys), moved, now_ms)
    assert answers(rest) == before


@pytest.mark.heavy
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_one_session_of_very_many_is_restored_from_a_journal(tmp_path: Path, is_forgotten: bool) -> None:
    """Its number in the journal is greater than the size of the restored journal in bytes."""
    path, key = tmp_path / "store", ("vm-1", T0)
    with Writer(path, SMALL_TIERS) as writer:
        for number in range(2000):
            writer.tick((f"ci-{number}", T0), T0 + 1)
        writer.tick(key, T0 + 2)
        writer.end(key)
        writer.flush()
    before = answers(path)[key]
    if is_forgotten:
        forget_sessions(str(path), parse_forget('{instance=~"ci-.*"}'))
    data = dumped(path, None if is_forgotten else {key})
    moved = restored(data, tmp_path / "moved", now_ms)
    assert answers(moved) == {key: before}
    assert list(Checker(moved).findings()) == []


def test_a_dump_has_no_forgotten_sessions(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Writer(path, SMALL_TIERS, per_frame=7) as writer:
        for start_ms in (T0, T0 + 5):
            t_ms = T0 + 1 if start_ms == T0 else T0 + 90_000
            if start_ms == T0 + 5:
                fill(writer)
            writer.tick(
                ("secret", start_ms), t_ms, schema=SCHEMAS[2], values=(1, 2, 3), labels=(("pass", "sesame"),)
            )
            writer.end(("secret", start_ms))
            writer.rotate()
            writer.roll_up()
    with OpenStore(path, now_ms=now_ms) as store:
        store.keep_house()
    forget_sessions(str(path), parse_forget('{instance="secret"}'))
    data = dumped(path)
    assert b"secret" not in data and b"sesame" not in data
    check(path, restored(data, tmp_path / "moved", now_ms))


def test_a_dump_leaves_damaged_data_out(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Writer(path, SMALL_TIERS, per_frame=3) as writer:
        fill(writer)
    journal = path / "tier_0" / "0000000002"
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    moved = restored(dumped(path), tmp_path / "moved", now_ms)
    assert answers(moved).keys() == {(one.instance, one.start_ms) for one in Store(path).sessions()}
