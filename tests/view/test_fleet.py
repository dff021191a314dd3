"""The fleet compared with a plain model of the same ticks, look by look, with a clock passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rondo_tools.catalog import CPU, NET, SERIES, Series
from rondo_tools.query.top.rows import summary
from rondo_tools.selector import parse_selector
from rondo_tools.store.format.tiers import Tier, parse_tiers
from rondo_tools.store.live import Session
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import End, Header
from rondo_tools.view.fleet import Fleet, View
from rondo_tools.view.measures import COUNTERS, NUMBER
from tests.support.view.fleet_truth import Life, now, sums

T0 = 1_795_395_000_000
TIERS = parse_tiers("1s:10m,10s:6h,5m:7d")
OWN = (Series("store_ticks_total", (), "counter", "ticks", "Ticks."),)


class Host:
    """A store being written, and a model of its content."""

    def __init__(self, store: OpenStore, path: Path, clock: list[int]) -> None:
        self.store, self.path, self.clock = store, path, clock
        self.lives: dict[tuple[str, int], Life] = {}
        self._open: dict[tuple[str, int], tuple[Session, tuple[Series, ...]]] = {}

    def begin(
        self, instance: str, series: tuple[Series, ...] = SERIES, interval_ms: int = 1000, **labels: str
    ) -> Life:
        life = Life(instance, self.clock[0], interval_ms)
        self.lives[instance, life.start_ms] = life
        self.go_on(life, series, **labels)
        return life

    def go_on(self, life: Life, series: tuple[Series, ...], **labels: str) -> None:
        """The session has these series from now on."""
        header = Header(life.instance, life.start_ms, tuple(labels.items()), life.interval_ms, series)
        self._open[life.instance, life.start_ms] = self.store.keeper.begin(header, self), series

    def tick(self, life: Life, values: Callable[[Series], float], t_ms: int | None = None) -> None:
        session, series = self._open[life.instance, life.start_ms]
        t_ms = self.clock[0] if t_ms is None else t_ms
        row = [values(one) for one in series]
        assert self.store.keeper.append(session, t_ms, np.array(row, "<f8").tobytes()) is not False
        life.ticks.append((t_ms, dict(zip(series, row, strict=True))))
        life.end = None

    def end(self, life: Life, reason: str) -> None:
        life.end, life.end_ms = reason, self.clock[0]
        session, _ = self._open[life.instance, life.start_ms]
        self.store.keeper.end(session, End(reason, life.end_ms))

    def look(self, fleet: Fleet) -> View:
        self.store.keeper.flush()
        return fleet.look(self.clock[0])


@contextmanager
def host(path: Path, tiers: tuple[Tier, ...] = TIERS) -> Iterator[Host]:
    clock = [T0]
    with OpenStore(
        path, tiers, now_ms=lambda: clock[0], latest_ms=lambda: clock[0], clock=lambda: clock[0] / 1000
    ) as store:
        yield Host(store, path, clock)


def rows_of(view: View, instance: str) -> list[int]:
    return [row for row, vm in enumerate(view.vms) if vm.instance == instance]


def compare(view: View, lives: dict[tuple[str, int], Life], range_ms: int) -> None:
    """Compare all columns of the view for each VM that did not end long ago."""
    first_ms = view.now_ms - range_ms
    wanted = {key for key, one in lives.items() if one.ticks and (one.end is None or one.end_ms > first_ms)}
    assert {(vm.instance, vm.start_ms) for vm in view.vms} == wanted
    for row, vm in enumerate(view.vms):
        one = lives[vm.instance, vm.start_ms]
        assert view.states[row] == one.state(view.now_ms)
        both = [*view.sums.increase[row], *view.sums.mean[row]]
        np.testing.assert_allclose(both, sums(one, first_ms, view.now_ms), err_msg=vm.instance)
        np.testing.assert_allclose(view.now[row], now(one, view.now_ms), err_msg=vm.instance)
    assert view.born == sum(lives[key].start_ms > first_ms for key in wanted)
    assert view.ended == sum(lives[key].end is not None for key in wanted)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(4))
def test_every_look_shows_the_stored_ticks(tmp_path: Path, seed: int) -> None:
    """VMs of several schemas and intervals, which appear, change their series, go silent, come back, end."""
    rng = np.random.default_rng(seed)
    schemas = (SERIES, (*SERIES, *CPU, *NET), SERIES[:5], (*CPU, SERIES[13]))
    with host(tmp_path) as it:
        fleet = late = None
        counts: dict[tuple[str, Series], float] = {}
        alive: list[Life] = []

        def values(life: Life) -> Callable[[Series], float]:
            def of(one: Series) -> float:
                if rng.random() < 0.03:
                    return float("nan")
                if one.kind == "gauge":
                    return float(rng.integers(1, 1000))
                key = life.instance, one
                begins_anew = rng.random() < 0.02
                counts[key] = (0 if begins_anew else counts.get(key, 0)) + int(rng.integers(0, 100))
                return float(counts[key])

            return of

        for second in range(100):
            if rng.random() < 0.2:
                schema = schemas[rng.integers(len(schemas))]
                alive.append(it.begin(f"vm-{second}", schema, int(rng.choice([250, 1000]))))
            it.clock[0] += 1000
            for one in list(alive):
                if rng.random() < 0.03:
                    it.go_on(one, schemas[rng.integers(len(schemas))])
                if one.instance.endswith("7") and second % 30 > 15:
                    continue  # silent for a while
                for before_ms in range(1000 - one.interval_ms, -1, -one.interval_ms):
                    it.tick(one, values(one), it.clock[0] - before_ms)
                if rng.random() < 0.02:
                    it.end(one, "poweroff")
                    alive.remove(one)
            it.store.keeper.flush()
            if second == 20:
                fleet = Fleet(Store(it.path))
            if fleet is not None and (second < 30 or second % 5 == 0):
                compare(it.look(fleet), it.lives, 60_000)
        late = Fleet(Store(it.path))
        compare(it.look(late), it.lives, 60_000)


def test_a_life_between_two_looks_is_counted_completely(tmp_path: Path) -> None:
    with host(tmp_path) as it:
        fleet = Fleet(Store(tmp_path))
        assert it.look(fleet).vms == []
        vm = it.begin("short")
        for _ in range(3):
            it.clock[0] += 1000
            it.tick(vm, lambda one: 50.0 * len(vm.ticks) + 50)
        it.end(vm, "reset")
        view = it.look(fleet)
        assert (view.states, view.born, view.ended) == (["reset"], 1, 1)
        assert [vm.instance for vm in (*view.new, *view.over)] == ["short", "short"]
        assert view.sums.increase[0][NUMBER["exits"]] == 5 * 150  # the first tick counts from its start
        it.clock[0] += 59_000
        view = it.look(fleet)
        assert (view.states, view.new, view.over) == (["reset"], [], [])
        it.clock[0] += 1000
        assert it.look(fleet).states == [], "over for longer than the range"


def test_a_lost_vm_comes_back(tmp_path: Path) -> None:
    with host(tmp_path) as it:
        fleet = Fleet(Store(tmp_path))
        vm = it.begin("vm-1")
        it.clock[0] += 1000
        it.tick(vm, lambda one: 1.0)
        it.end(vm, "lost")
        assert it.look(fleet).states == ["lost"]
        it.clock[0] += 1000
        it.go_on(vm, SERIES)
        it.tick(vm, lambda one: 2.0)
        view = it.look(fleet)
        assert view.states == ["running"]
        assert view.now[0][NUMBER["exits"]] == 5


def test_sessions_that_are_no_vms_are_left_out(tmp_path: Path) -> None:
    with host(tmp_path) as it:
        own, vm = it.begin("rondo-store", OWN), it.begin("vm-1")
        it.clock[0] += 1000
        it.tick(own, lambda one: 1.0)
        it.tick(vm, lambda one: 1.0)
        for fleet in (Fleet(Store(tmp_path)), Fleet(Store(tmp_path), range_ms=3_600_000)):
            for _ in range(2):
                assert [one.instance for one in it.look(fleet).vms] == ["vm-1"]


def test_a_selector_chooses_vms_and_series(tmp_path: Path) -> None:
    with host(tmp_path) as it:
        for name in ("a", "b"):
            vm = it.begin(name, tenant=name)
            it.clock[0] += 1000
            it.tick(vm, lambda one: 10.0)
        view = it.look(Fleet(Store(tmp_path), parse_selector('{tenant="b",reason=~"io|hlt"}')))
        assert [vm.instance for vm in view.vms] == ["b"]
        assert view.now[0][NUMBER["exits"]] == 20
        assert view.known[0].nonzero()[0].tolist() == [NUMBER["exits"]]


def test_a_label_of_series_splits_a_vm(tmp_path: Path) -> None:
    with host(tmp_path) as it:
        vm = it.begin("vm-1")
        it.clock[0] += 1000
        it.tick(vm, lambda one: 30.0 if ("reason", "io") in one.labels else 1.0)
        view = it.look(Fleet(Store(tmp_path), label="reason"))
        exits = dict(zip(view.values, view.now[:, NUMBER["exits"]].tolist(), strict=True))
        assert exits == {"": 0, "hlt": 1, "io": 30, "mmio": 1, "other": 1, "shutdown": 1}
        assert view.known[:, NUMBER["exits"]].tolist() == [value != "" for value in view.values]


def test_a_store_of_one_tier_uses_only_journals(tmp_path: Path) -> None:
    with host(tmp_path, parse_tiers("1s:10m")) as it:
        vm = it.begin("vm-1")
        it.clock[0] += 1000
        it.tick(vm, lambda one: 1.0)
        view = it.look(Fleet(Store(tmp_path), range_ms=3_600_000))
        assert view.sums.increase[0][NUMBER["exits"]] == 5


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1.7e308])
def test_a_value_without_sense_hides_no_other(tmp_path: Path, value: float) -> None:
    with host(tmp_path) as it:
        vms = [it.begin("vm-1"), it.begin("vm-2")]
        fleet = Fleet(Store(tmp_path))
        for _ in range(2):
            it.clock[0] += 1000
            for vm in vms:
                it.tick(vm, lambda one: value if one.name.startswith("blk_") else 7.0)
            view = it.look(fleet)
        summary(view, is_range=True)
        assert view.now[:, NUMBER["rss"]].tolist() == [7.0, 7.0]
        assert view.sums.mean[:, NUMBER["rss"] - len(COUNTERS)].tolist() == [7.0, 7.0]


def always(value: float) -> Callable[[Series], float]:
    return lambda _: value


def test_a_range_that_journals_do_not_reach_begins_with_coarse_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An hour, of which the journals have only the last minutes."""
    with host(tmp_path) as it:
        gone, lives = (it.begin(name, interval_ms=5000) for name in ("gone", "lives"))
        for number in range(1, 481):
            it.clock[0] += 5000
            some = [one for one in (gone, lives) if one.end is None]
            for one in some:
                it.tick(one, always(number))
            if number == 120:
                it.end(gone, "error")
            it.store.keeper.flush()
            if number % 60 == 0:
                it.store.keep_house()
        fleet = Fleet(Store(tmp_path), range_ms=3_600_000)
        view = it.look(fleet)
        exits = {
            vm.instance: grew
            for vm, grew in zip(view.vms, view.sums.increase[:, NUMBER["exits"]].tolist(), strict=True)
        }
        assert exits == {"gone": 5 * 120, "lives": 5 * 480}
        assert sorted(view.states) == ["error", "running"]
        it.clock[0] += 5000
        it.tick(lives, lambda one: 481.0)
        view = it.look(fleet)
        (row,) = rows_of(view, "lives")
        assert view.sums.increase[row][NUMBER["exits"]] == 5 * 481
        assert not caplog.messages
        monkeypatch.setattr("rondo_tools.view.fleet._MOST_ENDED", 0)
        assert [vm.instance for vm in it.look(Fleet(Store(tmp_path), range_ms=3_600_000)).vms] == ["lives"]
        assert caplog.messages == ["more than 0 VMs ended in the range: the oldest are left out"]


def test_memory_is_bounded_by_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rondo_tools.view.fleet._MOST_ENDED", 50)
    with host(tmp_path) as it:
        fleet = Fleet(Store(tmp_path))
        for number in range(400):
            if number % 100 == 0:
                it.clock[0] += 1000
            vm = it.begin(f"vm-{number}")
            it.tick(vm, lambda one: 1.0, it.clock[0] + 1)
            it.end(vm, "poweroff")
            if number % 20 == 19:
                assert len(it.look(fleet).vms) <= 50
        assert len(fleet._owner) == 256
    assert caplog.messages == ["more than 50 VMs ended in the range: the oldest are left out"]
