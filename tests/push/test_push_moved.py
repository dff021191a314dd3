"""A store that is moved with its cursors: no sample is sent twice, and none is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from devtools.receivers.receiver import HOUR_MS, Receiver
from rondo_tools.errors import EX_TEMPFAIL, StoreError
from rondo_tools.push.cursor import Cursor
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.opened import OpenStore
from tests.support.push.receivers import T0, Crash, Scripted, expected, fill, header, push_once, seconds
from tests.support.restore_host import dumped, restored

TIERS = "1s:1000h,10s:2000h"


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def now_ms() -> int:
    return T0 + 10 * HOUR_MS


def roll_up(path: Path) -> None:
    with OpenStore(path, parse_tiers(TIERS), now_ms=now_ms) as store:
        store.keep_house()


def push(path: Path, *args: str, receiver: Receiver, max_samples: int = 10_000) -> None:
    push_once(path, Scripted(receiver, args), now_ms=now_ms(), max_samples=max_samples)


@pytest.mark.parametrize("seed", range(20))
def test_a_move_during_a_delivery(tmp_path: Path, seed: int) -> None:
    chance, receiver = Random(seed), Receiver()
    path, sent, moves = tmp_path / "0", dict.fromkeys(("vm-1", "vm-2"), 0), 0
    steps: list[Callable[[], None]] = []

    def grow() -> None:
        name, count = chance.choice(list(sent)), chance.randint(1, 40)
        fill(path, header(name), seconds(count, T0 + 1000 * sent[name]), tiers=TIERS)
        sent[name] += count

    def deliver() -> None:
        words = ["ok"] * chance.randint(0, 3) + [chance.choice(("ok", "crash"))]
        try:
            push(path, *words, receiver=receiver, max_samples=chance.choice((6, 20, 10_000)))
        except Crash:
            pass

    def move() -> None:
        nonlocal path, moves
        moves += 1
        path = restored(dumped(path), tmp_path / str(moves), now_ms)

    grow()
    steps = [grow, grow, deliver, deliver, move, lambda: roll_up(path)]
    for _ in range(12):
        chance.choice(steps)()
    move()
    grow()
    push(path, receiver=receiver)
    assert receiver.samples == expected(path, with_ends=False)
    assert receiver.twice == 0


def test_a_batch_in_flight_moves_too(tmp_path: Path) -> None:
    receiver = Receiver()
    fill(tmp_path / "old", header(), seconds(30), tiers=TIERS)
    with pytest.raises(Crash):
        push(tmp_path / "old", "ok", "crash-after", receiver=receiver, max_samples=20)
    restored(dumped(tmp_path / "old"), tmp_path / "new", now_ms)
    with Cursor(tmp_path / "new", "prometheus") as cursor:
        assert cursor.in_flight is not None
    push(tmp_path / "new", receiver=receiver)
    assert receiver.samples == expected(tmp_path / "new", with_ends=False)


@pytest.mark.parametrize("delivered", [True, False])
def test_merged_hosts_keep_the_progress_of_their_deliveries(tmp_path: Path, delivered: bool) -> None:
    receiver = Receiver()
    for name in ("a", "b"):
        fill(tmp_path / name, header(f"vm-{name}"), seconds(30), "poweroff", tiers=TIERS)
        push(tmp_path / name, receiver=receiver)
    fill(tmp_path / "a", header("vm-c"), seconds(30), tiers=TIERS)  # a has not sent it yet
    if not delivered:
        fill(tmp_path / "b", header("vm-b", T0 + 60_000), seconds(5, T0 + 61_000), tiers=TIERS)
        before = (tmp_path / "b" / "cursor_prometheus.json").read_bytes()
        with pytest.raises(StoreError, match="has not delivered all of this store") as raised:
            restored(dumped(tmp_path / "a"), tmp_path / "b", now_ms)
        assert raised.value.exit_code == EX_TEMPFAIL
        assert (tmp_path / "b" / "cursor_prometheus.json").read_bytes() == before
        push(tmp_path / "b", receiver=receiver)
    restored(dumped(tmp_path / "a"), tmp_path / "b", now_ms)
    push(tmp_path / "b", receiver=receiver)
    assert receiver.samples == expected(tmp_path / "b")
    assert receiver.twice == 0


def test_without_its_cursors_a_dump_counts_as_delivered(tmp_path: Path) -> None:
    receiver = Receiver()
    fill(tmp_path / "a", header("vm-a"), seconds(30), "poweroff", tiers=TIERS)
    fill(tmp_path / "b", header("vm-b"), seconds(30), "poweroff", tiers=TIERS)
    push(tmp_path / "b", receiver=receiver)
    before = {key: dict(mine) for key, mine in receiver.samples.items()}
    restored(dumped(tmp_path / "a"), tmp_path / "b", now_ms, bring_cursors=False)
    push(tmp_path / "b", receiver=receiver)
    assert receiver.samples == before


def test_a_running_push_blocks_a_restore(tmp_path: Path) -> None:
    fill(tmp_path / "a", header("vm-a"), seconds(3), tiers=TIERS)
    fill(tmp_path / "b", header("vm-b"), seconds(3), tiers=TIERS)
    push(tmp_path / "b", receiver=Receiver())
    with Cursor(tmp_path / "b", "prometheus"), pytest.raises(StoreError, match="stop it, restore"):
        restored(dumped(tmp_path / "a"), tmp_path / "b", now_ms)


def test_rows_of_removed_journals_are_sent_after_a_move(tmp_path: Path) -> None:
    """They were removed for lack of space; their coarse rows move, and are sent."""
    receiver, path = Receiver(), tmp_path / "old"
    fill(path, header(), seconds(10), tiers=TIERS)
    push(path, receiver=receiver)
    for part in range(1, 4):
        fill(path, header(), seconds(100, T0 + 100_000 * part), tiers=TIERS)
    roll_up(path)
    with OpenStore(path, parse_tiers(TIERS), max_bytes=1, now_ms=now_ms) as store:
        store.keep_house()
    assert not list((path / "tier_0").iterdir())
    moved = restored(dumped(path), tmp_path / "new", now_ms)
    push(moved, receiver=receiver)
    alone, other = Receiver(), Receiver()
    push(path, receiver=alone)
    push(moved, receiver=other)
    assert alone.samples
    assert {key: set(mine) for key, mine in alone.samples.items()} == {
        key: {t_ms for t_ms in mine if t_ms >= T0 + 10_000} for key, mine in receiver.samples.items()
    }
    assert not other.samples
