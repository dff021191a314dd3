"""Outages: every tick in order as long as the journals exist; then roll-ups, once.

The expected samples are computed from the ticks, with plain Python; time is simulated.
"""

from __future__ import annotations

import json
import math
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.receivers.prometheus import Prometheus
from devtools.receivers.receiver import Key, Receiver, bits
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push import stretch as stretch_module
from rondo_tools.store.compaction import roll_up
from rondo_tools.store.format.cursor import Position, Progress
from rondo_tools.store.format.layout import JOURNALS
from rondo_tools.store.format.opened import open_store
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import DEFAULT_TIERS, format_tiers
from rondo_tools.store.remembered import Remembered
from tests.support.fixtures import Run
from tests.support.push.receivers import (
    T0,
    Scripted,
    drain_of,
    expected,
    fill,
    header,
    labels_of,
    push_once,
    seconds,
    ticks,
)

SMALL = "1s:40s,5s:4m,20s:20m"
HOUR_S = 3600
Row = tuple[int, list[float]]


def gauge_and_counter(count: int, start_ms: int, step_ms: int = 1000) -> list[Row]:
    return [
        (start_ms + step_ms * i, [float(i * 3), math.nan if i % 7 == 3 else i % 100 / 8])
        for i in range(count)
    ]


def rolled_up(rows: list[Row], window_ms: int) -> list[Row]:
    """Each window's last value of the counter and average of the gauge, at the time of its last tick."""
    windows: dict[int, list[Row]] = {}
    for row in rows:
        windows.setdefault(row[0] // window_ms, []).append(row)
    made = []
    for some in windows.values():
        heats = [heat for _, (_, heat) in some if not math.isnan(heat)]
        made.append((some[-1][0], [some[-1][1][0], sum(heats) / len(heats) if heats else math.nan]))
    return made


def as_samples(rows: list[Row], labels: tuple[Key, ...]) -> dict[Key, dict[int, int]]:
    return {key: {t_ms: bits(values[at]) for t_ms, values in rows} for at, key in enumerate(labels)}


def roll_up_and_remove(path: Path, gone: int) -> None:
    """Do what rondo-store does if no cursor keeps journals: the last one rolled up stays for a while."""
    upto = gone + 1
    store = open_store(path)
    found = roll_up(
        store.layout, State(), store.tiers, bytes.fromhex(store.store_id), lambda: T0, upto,
        Remembered(store.layout),
    )  # fmt: skip
    assert found.state.rolled_up == upto
    for number in range(1, gone + 1):
        store.layout.file(JOURNALS, number).unlink()


@pytest.mark.parametrize("outage_s", [10, 39, 230, 5000])
def test_an_outage_is_delivered_second_by_second_and_in_order(tmp_path: Path, outage_s: int) -> None:
    rows = gauge_and_counter(20 + outage_s, T0)
    fill(tmp_path, header(), ticks(*rows[:20]), tiers=SMALL)
    receiver = Receiver()
    push_once(tmp_path, Scripted(receiver), now_ms=rows[19][0] + 10_000)
    fill(tmp_path, header(), ticks(*rows[20:]), tiers=SMALL)
    push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 10_000)
    assert receiver.samples == as_samples(rows, labels_of(header()))
    assert receiver.twice == 0
    assert push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 10_000).requests == 0


@pytest.mark.parametrize("gone", [1, 2, 4])
def test_each_window_of_removed_journals_comes_from_tier_1(tmp_path: Path, gone: int) -> None:
    """Journals of a minute; the cursor is in the middle of the first one."""
    rows = gauge_and_counter(360, T0)
    fill(tmp_path, header(), ticks(*rows[:30]), tiers=SMALL)
    receiver = Receiver()
    push_once(tmp_path, Scripted(receiver), now_ms=rows[29][0] + 1000)
    for begin in range(30, 360, 60):
        fill(tmp_path, header(), ticks(*rows[begin : begin + 60]), tiers=SMALL)
    roll_up_and_remove(tmp_path, gone)
    push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 1000)
    lost = rows[: 30 + 60 * (gone - 1)]
    # A window that ends in an existing journal is sent as ticks, as far as they exist.
    coarse = [row for row in rolled_up(rows, 5000) if rows[29][0] < row[0] <= lost[-1][0]]
    assert receiver.samples == as_samples(rows[:30] + coarse + rows[len(lost) :], labels_of(header()))
    assert (len(coarse) > 0) == (gone > 1)
    assert receiver.twice == 0
    assert push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 1000).requests == 0


def ended_at(receiver: Receiver) -> dict[str, list[int]]:
    """The times of each instance's stale markers, which all of its series share."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for labels, samples in receiver.samples.items():
        times = tuple(t_ms for t_ms, value in samples.items() if value == STALE_NAN)
        found.setdefault(dict(labels)["instance"], set()).add(times)
    assert all(len(times) == 1 for times in found.values())
    return {instance: list(times.pop()) for instance, times in found.items()}


@pytest.mark.parametrize("tier", [1, 2])
def test_a_push_of_a_coarse_tier_marks_the_end_of_a_session(tmp_path: Path, tier: int) -> None:
    receiver = Receiver()
    fill(tmp_path, header("lives"), seconds(60), tiers=SMALL)
    fill(tmp_path, header("ended"), seconds(43), "poweroff", tiers=SMALL)
    fill(tmp_path, header("other"), seconds(10, T0 + 60_000), "reset", tiers=SMALL)
    roll_up_and_remove(tmp_path, 2)
    push_once(tmp_path, Scripted(receiver), now_ms=T0 + 100_000, tier=tier)
    expected = {"lives": [], "ended": [T0 + 42_001], "other": [T0 + 69_001]}
    assert ended_at(receiver) == expected
    assert receiver.twice == 0
    assert push_once(tmp_path, Scripted(receiver), now_ms=T0 + 100_000, tier=tier).requests == 0


def test_sessions_that_ended_in_removed_journals_get_their_markers(tmp_path: Path) -> None:
    """The first session was delivered as ticks, with its end; the others come from tier 1."""
    receiver = Receiver()
    fill(tmp_path, header("delivered"), seconds(30), "poweroff", tiers=SMALL)
    push_once(tmp_path, Scripted(receiver), now_ms=T0 + 100_000)
    assert ended_at(receiver) == {"delivered": [T0 + 29_001]}
    fill(tmp_path, header("owed"), seconds(30, T0 + 40_000), tiers=SMALL)
    fill(tmp_path, header("owed"), seconds(20, T0 + 70_000), "poweroff", tiers=SMALL)
    fill(tmp_path, header("lives"), seconds(20, T0 + 90_000), tiers=SMALL)
    roll_up_and_remove(tmp_path, 3)
    push_once(tmp_path, Scripted(receiver), now_ms=T0 + 120_000)
    assert ended_at(receiver) == {"delivered": [T0 + 29_001], "owed": [T0 + 89_001], "lives": []}
    assert receiver.twice == 0


def test_backfill_begins_with_the_coarser_tiers(tmp_path: Path) -> None:
    rows = gauge_and_counter(120, T0)
    fill(tmp_path, header(), ticks(*rows[:60]), tiers=SMALL)
    fill(tmp_path, header(), ticks(*rows[60:]), tiers=SMALL)
    roll_up_and_remove(tmp_path, 1)
    drain, progress, found = drain_of(tmp_path), Progress(), []
    while (stretch := drain.next(progress, T0, backfill=True)) is not None:
        with stretch:
            found += [t for number in range(stretch.slices) for t in stretch.slice(number).t_ms.tolist()]
            drain.finish(progress, stretch, T0)
    whole = [t_ms for t_ms, _ in rolled_up(rows, 5000) if t_ms < rows[60][0]]
    assert found == whole + [t_ms for t_ms, _ in rows[60:]]


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch_module, "SLICE_SAMPLES", 50_000)
    for at in range(20):
        fill(tmp_path, header(f"vm-{at}"), seconds(5000, T0))
    store = open_store(tmp_path)

    def peak(journals: int) -> int:
        ends = [Position(n, b"", store.layout.file(JOURNALS, n).stat().st_size) for n in (1, journals)]
        tracemalloc.start()
        with stretch_module.Stretch(store.layout, ends[0]._replace(offset=40), ends[1]) as stretch:
            for number in range(stretch.slices):
                stretch.slice(number)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20) < 1.5 * peak(10)


def shown(prometheus: Prometheus, labels: Key) -> dict[int, int]:
    found = prometheus.samples('{job="rondo-vmm",instance!="rondo-push"}')
    return {t_ms: bits(float(value)) for t_ms, value in found.get(labels, [])}


@pytest.mark.parametrize(
    ("outage_s", "step_s"), [(20 * 60, 1), pytest.param(65 * 60, 1, marks=pytest.mark.long), (7 * HOUR_S, 10)]
)
def test_a_default_prometheus_accepts_everything(
    run: Run, prometheus: Prometheus, tmp_path: Path, outage_s: int, step_s: int
) -> None:
    start_ms = int(time.time()) * 1000 - outage_s * 1000 - 30_000
    rows = gauge_and_counter(outage_s // step_s, start_ms, step_s * 1000)
    head = header(start_ms=start_ms - 5)
    default = format_tiers(DEFAULT_TIERS)
    push = ("rondo-push", tmp_path, "--remote-write", prometheus.write_url)
    fill(tmp_path, head, ticks(*rows[:30]), tiers=default)
    assert run(*push, "--backfill").returncode == 0
    fill(tmp_path, head, ticks(*rows[30:]), tiers=default)
    done = run(*push, "-v")
    assert done.returncode == 0
    assert b" 0 rejected, 0 unclear, 0 passed over" in done.stderr
    for labels, samples in as_samples(rows, labels_of(head)).items():
        assert shown(prometheus, labels) == {t: v for t, v in samples.items() if v != STALE_NAN}
    assert expected(tmp_path)


@pytest.mark.long
def test_beside_a_live_writer_samples_over_an_hour_old_are_refused_with_a_warning(
    run: Run, program: Callable[[str], Path], tmp_path: Path
) -> None:
    """A default Prometheus; then one with a window for out-of-order samples, which accepts everything."""
    live, store = tmp_path / "live", tmp_path / "store"
    now_ms = int(time.time()) * 1000
    start_ms = now_ms - 3 * HOUR_S * 1000
    fill(live, header("live", now_ms - 20_000), seconds(10, now_ms - 20_000), "poweroff")
    for name in ("a", "b", "c"):
        rows = gauge_and_counter(3 * HOUR_S // 2 - 10, start_ms, 2000)
        fill(store, header(name, start_ms - 5), ticks(*rows), tiers=format_tiers(DEFAULT_TIERS))
    for config in ("", "storage: {tsdb: {out_of_order_time_window: 1d}}"):
        with Prometheus(program("prometheus"), config=config) as prometheus:
            write = ("--remote-write", prometheus.write_url, "--cursor", f"c{len(config)}", "-v")
            assert run("rondo-push", live, *write).returncode == 0
            done = run("rondo-push", store, *write, "--backfill")
            assert done.returncode == 0
            refused = re.search(rb"(\d+) samples? sent, (\d+) rejected, 0 unclear, .* (\d+) req", done.stderr)
            assert refused is not None
            sent, rejected, requests = map(int, refused.groups())
            got = prometheus.samples('{job="rondo-vmm",instance=~"[abc]"}')
        everything = as_samples(rows, labels_of(header("a")))
        oldest_ms = 0 if config else now_ms - 20_000 + 9001 - HOUR_S * 1000
        for labels, samples in everything.items():
            wanted = {t: v for t, v in samples.items() if v != STALE_NAN and t >= oldest_ms}
            assert {t: bits(float(value)) for t, value in got[labels]} == wanted
        assert sent + rejected == 3 * 2 * len(rows)
        assert requests < 3 * len(rows)  # three series are sent sample by sample
        assert (rejected > 0) == (b"out_of_order_time_window" in done.stderr) == (not config)
        noted = store / f"rejected_c{len(config)}.jsonl"
        lines = [json.loads(line) for line in noted.read_text().splitlines()] if not config else []
        assert sum(line["samples"] for line in lines) == rejected
