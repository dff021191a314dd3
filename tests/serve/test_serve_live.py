"""The live page's data: viewers that come late, leave or stay, and replaced stores."""

from __future__ import annotations

import gc
import gzip
import json
import shutil
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.errors import StoreError
from rondo_tools.serve.live import FORGET_S, Live
from rondo_tools.serve.opened import Opened
from rondo_tools.store.reader import Store
from tests.support.serve.serve_host import life, serving, store_stream, until

NOW_MS = T0 = 0


@pytest.fixture(scope="module", autouse=True)
def _now() -> None:
    """When these tests begin: they were imported minutes ago, perhaps."""
    global NOW_MS, T0
    NOW_MS = time.time_ns() // 1_000_000
    T0 = NOW_MS // 1000 * 1000 - 30_000


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now_s, self.now_ms = 1000.0, NOW_MS

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.now_ms += int(1000 * seconds)


def looks_at(open_store: Callable[[], Store], clock: Clock) -> Live:
    return Live(open_store, lambda _: [], lambda: clock.now_ms, lambda: clock.now_s)


def ask(live: Live, seen: int = 0) -> Any:
    return json.loads(gzip.decompress(live.answer(seen)))


def names(answer: Any) -> list[str]:
    return [vm[1] for vm in answer["vms"]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store_stream(tmp_path / "s", life("vm", T0, 25))
    return tmp_path / "s"


def test_without_a_viewer_the_memory_is_freed(store: Path) -> None:
    clock = Clock()
    opened: list[weakref.ref[Store]] = []

    def open_store() -> Store:
        one = opened[-1]() if opened else None
        if one is None:
            opened.append(weakref.ref(one := Store(store)))
        return one

    live = looks_at(open_store, clock)
    first = ask(live)
    assert not live.forget()
    clock.wait(FORGET_S / 2)
    ask(live, first["seq"])
    clock.wait(FORGET_S / 2 + 1)
    assert not live.forget()  # the last request was half a minute ago
    clock.wait(FORGET_S / 2)
    assert live.forget()
    gc.collect()
    assert [one() for one in opened if one() is not None] == []
    assert not live.forget()
    assert "vms" in ask(live, first["seq"])  # a returning viewer gets everything
    assert len(opened) == 2


def test_a_restarted_process_does_not_continue_old_looks(store: Path) -> None:
    """A page with look N of a process asks the next process, which has other ids for the VMs."""
    clock = Clock()
    before = looks_at(Opened(store).store, clock)
    seen = [ask(before)["seq"]]
    for _ in range(15):
        clock.wait(1)
        seen.append(json.loads(gzip.decompress(before.answer(seen[-1])))["deltas"][-1]["seq"])
    after = looks_at(Opened(store).store, clock)
    for number in range(20):
        answers = [ask(after, one) for one in seen]
        assert all("vms" in one for one in answers), number
        clock.wait(1)


@pytest.mark.parametrize("fails", ["sessions", "read", "news"])
def test_a_failed_look_does_not_affect_the_next(
    store: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    live = looks_at(Opened(store).store, clock)
    if fails == "news":
        ask(live)
        clock.wait(1)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(Store, fails, fail)
        with pytest.raises(StoreError):
            live.answer(0)
    assert names(ask(live)) == ["vm"]


def test_a_replaced_store_is_opened_again(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    store_stream(other, life("new", T0, 25))
    clock = Clock()
    live = looks_at(Opened(store).store, clock)
    assert names(ask(live)) == ["vm"]
    with serving(store) as served:
        assert [one["instance"] for one in json.loads(served.ask("/api/v1/sessions").body)] == ["vm"]
        first = json.loads(served.ask("/api/v1/live").body)["seq"]
        shutil.rmtree(store)
        gone = served.ask("/health")
        assert (gone.status, "no store there" in gone.text) == (503, True)
        assert served.ask("/api/v1/sessions").status == 503
        clock.wait(1)
        with pytest.raises(StoreError):
            live.answer(0)
        other.rename(store)
        assert served.ask("/health").text == "ok\n"
        assert [one["instance"] for one in json.loads(served.ask("/api/v1/sessions").body)] == ["new"]
        # A look is used for a second.
        until(lambda: '"new"' in served.ask(f"/api/v1/live?since={first}").text)
    assert names(ask(live)) == ["new"]
