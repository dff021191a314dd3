"""Outages longer than tier 0: what is lost in seconds comes from the coarser tiers, once, in order.

What must arrive is computed here from the ticks themselves, with plain Python; time is simulated.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus import Prometheus
from receivers import (
    T0,
    Key,
    Receiver,
    Scripted,
    bits,
    expected,
    fill,
    header,
    labels_of,
    push_once,
    seconds,
    ticks,
)

from rondo_tools.push import backlog, drain
from rondo_tools.push.cursor import Mark
from rondo_tools.push.drain import Drain
from rondo_tools.push.encoding.v1 import STALE_NAN
from rondo_tools.store.reader import Rows, Session, Store
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, format_tiers, parse_tiers

SMALL = "1s:40s,5s:4m,20s:20m"
HOUR_S, DAY_S = 3600, 86_400
Row = tuple[int, list[float]]


def gauge_and_counter(count: int, start_ms: int, step_ms: int = 1000) -> list[Row]:
    return [
        (start_ms + step_ms * i, [float(i * 3), math.nan if i % 7 == 3 else i % 100 / 8])
        for i in range(count)
    ]


def thinned(rows: list[Row], tiers: tuple[Tier, ...], delivered_ms: int) -> list[Row]:
    """What is to be sent of a session's ticks when all up to `delivered_ms` was."""
    last_ms, window_ms = rows[-1][0], tiers[-1].interval_ms

    def holds(tier: Tier, since_ms: int) -> bool:
        newest_slot = last_ms // tier.interval_ms
        return since_ms // tier.interval_ms > newest_slot - tier.slots

    sent: list[Row] = []
    for begin_ms in range(delivered_ms // window_ms * window_ms, last_ms + 1, window_ms):
        since_ms = max(begin_ms, delivered_ms + 1)
        mine = [row for row in rows if begin_ms <= row[0] < begin_ms + window_ms]
        finest = next((at for at, tier in enumerate(tiers) if holds(tier, since_ms)), len(tiers) - 1)
        for group_ms in range(begin_ms, begin_ms + window_ms, tiers[finest].interval_ms):
            group = [row for row in mine if group_ms <= row[0] < group_ms + tiers[finest].interval_ms]
            if group and group[-1][0] > delivered_ms:
                heats = [heat for _, (_, heat) in group if not math.isnan(heat)]
                average = sum(heats) / len(heats) if heats else math.nan
                sent.append((group[-1][0], [group[-1][1][0], average if finest else group[-1][1][1]]))
    return [row for row in sent if row[0] >= last_ms - tiers[-1].span_ms]


def as_samples(rows: list[Row], labels: tuple[Key, ...]) -> dict[Key, dict[int, int]]:
    return {key: {t_ms: bits(values[at]) for t_ms, values in rows} for at, key in enumerate(labels)}


@pytest.mark.parametrize("outage_s", [10, 39, 55, 100, 230, 300, 900, 1100])
@pytest.mark.parametrize("delivered", [1, 12, 20])
def test_each_window_from_the_finest_tier_that_holds_it(
    tmp_path: Path, outage_s: int, delivered: int
) -> None:
    rows = gauge_and_counter(delivered + outage_s, T0)
    fill(tmp_path, header(), ticks(*rows[:delivered]), tiers=SMALL)
    receiver = Receiver()
    push_once(tmp_path, Scripted(receiver), now_ms=rows[delivered - 1][0] + 10_000)
    fill(tmp_path, header(), ticks(*rows[delivered:]), tiers=SMALL)
    push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 10_000)
    late = thinned(rows, parse_tiers(SMALL), rows[delivered - 1][0])
    assert len(late) == outage_s or outage_s > 39
    assert receiver.samples == as_samples(rows[:delivered] + late, labels_of(header()))
    assert receiver.twice == 0
    assert push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 10_000).requests == 0


def test_oldest_first_over_all_sessions(tmp_path: Path) -> None:
    for name, offset in (("a", 0), ("b", 700), ("c", 300)):
        fill(tmp_path, header(name), seconds(3 * HOUR_S, T0 + offset), tiers=format_tiers(DEFAULT_TIERS))
    marks = {session.key: Mark(T0 + 60_000) for session in Store(tmp_path).sessions()}
    newest_ms = 0
    for batch in Drain(Store(tmp_path), labels_of, 100).batches(marks, T0 + 4 * HOUR_S * 1000):
        for block in batch.blocks:
            assert int(block.t_ms[0]) > newest_ms - HOUR_S * 1000 // 2
            newest_ms = max(newest_ms, int(block.t_ms[-1]))
    assert newest_ms == T0 + 700 + (3 * HOUR_S - 1) * 1000


def test_delivery_begins_with_tier_0_and_backfill_takes_all(tmp_path: Path) -> None:
    rows = gauge_and_counter(300, T0)
    fill(tmp_path, header(), ticks(*rows), tiers=SMALL)
    one = Drain(Store(tmp_path), labels_of)
    now_ms = rows[-1][0] + 10_000

    def times(begun_ms: int) -> list[int]:
        found = one.batches({}, now_ms, begun_ms=begun_ms)
        return [t for batch in found for block in batch.blocks for t in block.t_ms.tolist()]

    assert times(one.begin_ms(now_ms)) == [t_ms for t_ms, _ in rows[-40:]]
    assert times(0) == [t_ms for t_ms, _ in thinned(rows, parse_tiers(SMALL), T0 - 1)]


def test_a_first_push_that_fails_is_owed_what_tier_0_held_then(tmp_path: Path) -> None:
    rows = gauge_and_counter(300, T0)
    fill(tmp_path, header(), ticks(*rows[:100]), tiers=SMALL)
    receiver = Receiver()
    with pytest.raises(Exception, match="refused"):
        push_once(tmp_path, Scripted(receiver, ["refused"] * 4), now_ms=rows[99][0] + 1000)
    fill(tmp_path, header(), ticks(*rows[100:]), tiers=SMALL)
    push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 10_000)
    begun_ms = rows[99][0] + 1000 - 40_000 + 20_000
    late = [row for row in thinned(rows, parse_tiers(SMALL), T0 - 1) if row[0] >= begun_ms]
    assert receiver.samples == as_samples(late, labels_of(header()))


def test_a_writer_that_overtakes_the_push_costs_resolution_not_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = gauge_and_counter(120, T0)
    fill(tmp_path, header(), ticks(*rows[:40]), tiers=SMALL)
    monkeypatch.setattr(drain, "SLICE_SAMPLES", 0)  # a backlog too long to be kept when it is looked at
    read, overtaken = Session.stored, []

    def racing(self: Session, tier: int, after_ms: int, before_ms: int) -> tuple[Rows, bool]:
        if not overtaken:
            overtaken.append(tier)
            fill(tmp_path, header(), ticks(*rows[40:]), tiers=SMALL)
        return read(self, tier, after_ms, before_ms)

    monkeypatch.setattr(Session, "stored", racing)
    receiver = Receiver()
    push_once(tmp_path, Scripted(receiver), now_ms=rows[39][0] + 10_000)
    monkeypatch.undo()
    push_once(tmp_path, Scripted(receiver), now_ms=rows[-1][0] + 10_000)
    counter = receiver.samples[labels_of(header())[0]]
    assert overtaken == [0]
    assert max(b - a for a, b in pairwise(sorted(counter))) <= 5000
    assert all(counter[t_ms] == bits((t_ms - T0) // 1000 * 3.0) for t_ms in counter)


def test_roll_ups_only(tmp_path: Path) -> None:
    """--tier 1: each window once, when it is closed; nothing of it before."""
    rows = gauge_and_counter(100, T0)
    fill(tmp_path, header(), ticks(*rows), tiers=SMALL)

    def push(now_ms: int) -> list[int]:
        found = Drain(Store(tmp_path), labels_of, finest=1).batches({}, now_ms)
        return [t for batch in found for block in batch.blocks for t in block.t_ms.tolist()]

    ends = [t_ms for t_ms, _ in rows if t_ms % 5000 == 4000]
    assert push(rows[-1][0]) == ends[:-1]
    assert push(rows[-1][0] + 10_000) == ends


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drain, backlog):
        monkeypatch.setattr(module, "SLICE_SAMPLES", 50_000)
    for at in range(10):
        fill(tmp_path, header(f"vm-{at}"), seconds(20_000, T0), tiers="1s:6h,10s:7d")

    def peak(delivered: int) -> int:
        marks = {session.key: Mark(T0 + 1000 * delivered) for session in Store(tmp_path).sessions()}
        tracemalloc.start()
        for _ in Drain(Store(tmp_path), labels_of).batches(marks, T0 + 30_000_000):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(0) < 1.5 * peak(17_000)


def shown(prometheus: Prometheus, labels: Key) -> dict[int, int]:
    found = prometheus.samples('{job="rondo-vmm",instance!="rondo-push"}')
    return {t_ms: bits(float(value)) for t_ms, value in found.get(labels, [])}


@pytest.mark.parametrize(
    ("outage_s", "step_s"),
    [(20 * 60, 1), (7 * HOUR_S, 2), pytest.param(8 * DAY_S, 20, marks=pytest.mark.long)],
)
def test_a_default_prometheus_takes_it_all(
    run: Callable[..., object], prometheus: Prometheus, tmp_path: Path, outage_s: int, step_s: int
) -> None:
    start_ms = int(time.time()) * 1000 - outage_s * 1000 - 30_000
    rows = gauge_and_counter(outage_s // step_s, start_ms, step_s * 1000)
    head = header(start_ms=start_ms - 5)
    default = format_tiers(DEFAULT_TIERS)
    push = ("rondo-push", tmp_path, "--remote-write", prometheus.write_url)
    fill(tmp_path, head, ticks(*rows[:30]), tiers=default)
    assert run(*push).returncode == 0  # type: ignore[attr-defined]
    fill(tmp_path, head, ticks(*rows[30:]), tiers=default)
    done = run(*push, "-v")
    assert done.returncode == 0  # type: ignore[attr-defined]
    assert b" 0 rejected, 0 unclear, 0 passed over" in done.stderr  # type: ignore[attr-defined]
    # The last tick's slot is over for more than 5 s, so it was sent.
    late = thinned(rows, DEFAULT_TIERS, rows[29][0])
    for labels, samples in as_samples(rows[:30] + late, labels_of(head)).items():
        assert shown(prometheus, labels) == {t: v for t, v in samples.items() if v != STALE_NAN}
    assert len(late) < len(rows) - 30
    assert expected(tmp_path)


def test_with_a_live_writer_beside_what_is_over_an_hour_old_is_refused_and_it_is_said(
    run: Callable[..., subprocess.CompletedProcess[bytes]], program: Callable[[str], Path], tmp_path: Path
) -> None:
    """A default Prometheus; then one with a window for what comes out of order, which takes it all."""
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
        late = thinned(rows, DEFAULT_TIERS, start_ms - 1)
        everything = as_samples(late, labels_of(header("a")))
        oldest_ms = 0 if config else now_ms - 20_000 + 9001 - HOUR_S * 1000
        for labels, samples in everything.items():
            wanted = {t: v for t, v in samples.items() if v != STALE_NAN and t >= oldest_ms}
            assert {t: bits(float(value)) for t, value in got[labels]} == wanted
        assert sent + rejected == 3 * 2 * len(late)
        assert requests < 3000  # three series sample by sample, once; all the rest in large requests
        assert (rejected > 0) == (b"out_of_order_time_window" in done.stderr) == (not config)
        noted = store / f"rejected_c{len(config)}.jsonl"
        lines = [json.loads(line) for line in noted.read_text().splitlines()] if not config else []
        assert sum(line["samples"] for line in lines) == rejected
