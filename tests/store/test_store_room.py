"""Looking for what may go, in a thread beside the loop that stores: nothing that lives is removed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from needs import PATIENCE_S
from ring_model import T0, header, ticks

from rondo_tools.errors import StoreError
from rondo_tools.store import retention
from rondo_tools.store.chores import Chores
from rondo_tools.store.reader import Store
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End

NOW = T0 + 3_600_000


def over(store: StoreWriter, instance: str, begin_ms: int = T0) -> None:
    """A session that has ended."""
    session = store.open(header(instance=instance, start_ms=begin_ms))
    session.ring.append(ticks(5, begin_ms))
    session.finish(End("poweroff", begin_ms + 5000))
    session.close()


def names(path: Path) -> list[str]:
    return [session.instance for session in Store(path).sessions()]


@pytest.mark.heavy
def test_at_the_limit_a_new_session_does_not_cost_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMs that live for a moment, in a store that is full of such."""
    looks = 0
    candidates = retention.candidates

    def counting(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return candidates(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "candidates", counting)
    with StoreWriter(tmp_path, now_ms=lambda: NOW) as store:
        for number in range(40):
            over(store, f"old-{number:03}")
        store.room.max_bytes = retention.used(tmp_path)[0]
        store.room.make_room()
        assert looks == 1
        for number in range(30):
            over(store, f"new-{number:03}", T0 + 60_000)
        assert looks == 1
        store.room.make_room()
        assert store.room.used_bytes <= store.room.max_bytes
        left = names(tmp_path)
        assert [name for name in left if name.startswith("new")] == [f"new-{n:03}" for n in range(30)]
        assert 0 < len(left) - 30 <= 15  # the oldest went, and few more than there had to


def test_what_was_opened_since_the_look_stays(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, now_ms=lambda: NOW) as store:
        for name in "abc":
            over(store, name)
        store.room.max_bytes = retention.used(tmp_path)[0]
        store.room.make_room()  # now it is known what may go, and nothing has to
        again = store.open(header(instance="a", start_ms=T0))
        store.room.max_bytes = 1
        with pytest.raises(StoreError, match="'new' is refused"):
            store.open(header(instance="new"))
        assert names(tmp_path) == ["a"]
        again.close()


def test_nothing_that_is_being_made_is_swept_by_who_looks_beside(tmp_path: Path) -> None:
    """Made again and again while a thread looks again and again."""
    is_over = threading.Event()
    rounds = 0

    def look() -> None:
        nonlocal rounds
        while not is_over.is_set():
            store.room.expire()
            store.room.make_room()
            rounds += 1

    with StoreWriter(tmp_path, now_ms=lambda: NOW) as store:
        beside = threading.Thread(target=look)
        beside.start()
        try:
            number = 0
            while number < 100 or rounds < 10:
                session = store.open(header(instance=f"vm-{number}"))
                session.ring.append(ticks(3))
                session.close()
                number += 1
        finally:
            is_over.set()
            beside.join()
    found = Store(tmp_path).sessions()
    assert len(found) == number
    assert all(session.rows().t_ms.size == 3 for session in found)


def test_a_store_that_is_closed_removes_nothing(tmp_path: Path) -> None:
    """Whoever is still looking: another process may have the store by then."""
    with StoreWriter(tmp_path, now_ms=lambda: 2**53) as store:
        over(store, "a")
    store.room.max_bytes = 1
    store.room.make_room()
    store.room.expire()
    assert names(tmp_path) == ["a"]


def test_chores_are_done_one_by_one_and_once(caplog: pytest.LogCaptureFixture) -> None:
    chores, done, may_go = Chores(), [], threading.Event()

    def slow() -> None:
        may_go.wait(PATIENCE_S)
        done.append("slow")

    def failing() -> None:
        done.append("failing")
        raise StoreError("no such store")

    chores.add(slow)
    for _ in range(3):
        chores.add(failing)
    may_go.set()
    chores.wait()
    assert done == ["slow", "failing"]
    assert "for now: no such store" in caplog.text
    chores.add(failing)
    chores.wait()
    assert done == ["slow", "failing", "failing"]
