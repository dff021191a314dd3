"""A real VictoriaMetrics: it stores repeated samples twice, unless it is configured otherwise; and the
samples that it refuses, and those that it drops silently."""

from __future__ import annotations

import json
import random
import re
import string
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.receivers.receiver import HOUR_MS
from devtools.receivers.victoria import VictoriaMetrics
from rondo_tools.prom.samples import STALE_NAN
from tests.support.fixtures import Run
from tests.support.push.faults import FaultProxy
from tests.support.push.receivers import expected, fill, header, seconds, ticks
from tests.support.real_receivers import ONCE, VICTORIA, version

NOW = int(time.time()) * 1000  # anew for each test
DAY_MS = 24 * HOUR_MS
OURS = '{job="rondo-vmm",instance!="rondo-push"}'
ALL = '{__name__!=""}'
pytestmark = pytest.mark.usefixtures("now")

every = pytest.mark.parametrize("name", VICTORIA)


def tally(log: bytes) -> tuple[int, int, int]:
    """Samples sent, rejected and unclear, of the last line with --verbose."""
    found = re.search(rb"(\d+) samples? sent, (\d+) rejected, (\d+) unclear", log)
    assert found is not None, log
    return int(found[1]), int(found[2]), int(found[3])


@every
@pytest.mark.parametrize("flags", [(ONCE,), ()], ids=["once", "as it comes"])
def test_every_sample_is_there_although_an_answer_was_lost(
    run: Run, tmp_path: Path, program: Callable[[str], Path], name: str, flags: tuple[str, ...]
) -> None:
    store, start_ms = tmp_path / "vmm_metrics", NOW - 60_000
    nan = float("nan")
    rows = ticks(*((start_ms + 1000 * i, [i / 8, nan if i % 5 == 2 else i]) for i in range(30)))
    fill(store, header("a", start_ms - 500), rows, "poweroff")
    fill(store, header("b", start_ms), seconds(30, start_ms + 333), "reset")
    with (
        VictoriaMetrics(program(name), *flags) as receiver,
        FaultProxy(receiver.write_url) as proxy,
    ):
        proxy.follow(["lost answer"])
        done = run("rondo-push", store, "--remote-write", proxy.url)
        assert (done.returncode, proxy.done[0]) == (0, "lost answer"), done.stderr
        found = receiver.samples(OURS)
    copies = 1 if flags else 2
    wanted = expected(store)
    assert found.keys() == wanted.keys()
    for labels, samples in wanted.items():
        times = [t_ms for t_ms, value in sorted(samples.items()) if value != STALE_NAN]
        assert [t_ms for t_ms, _ in found[labels]] == [t_ms for t_ms in times for _ in range(copies)]
    heat = next(
        pairs for labels, pairs in found.items() if ("instance", "a") in labels and ("core", "0") in labels
    )
    read = [(t_ms, float(value)) for t_ms, value in heat]
    assert read == [(start_ms + 1000 * i, i / 8) for i in range(30) for _ in range(copies)]


@every
def test_victoriametrics_refuses_a_request_that_is_too_big_for_it(
    run: Run, tmp_path: Path, program: Callable[[str], Path], name: str
) -> None:
    """With 400, not 413. Each of its parts is small enough, except the samples of one VM whose labels alone
    are too long."""
    store = tmp_path / "vmm_metrics"
    for instance in ("a", "b", "c"):
        fill(store, header(instance, NOW - 60_000), seconds(20, NOW - 59_000), "poweroff")
    letters = random.Random(1)
    labels = [(f"l{at}", "".join(letters.choices(string.ascii_letters, k=1000))) for at in range(3)]
    long = header("long", NOW - 60_000)._replace(labels=tuple(labels))
    fill(store, long, seconds(2, NOW - 59_000), "poweroff")
    limit = "-maxInsertRequestSize=2000"
    with VictoriaMetrics(program(name), limit, ONCE) as receiver:
        done = run("rondo-push", store, "--remote-write", receiver.write_url, "-v")
        found = receiver.samples(OURS)
    assert done.returncode == 0, done.stderr
    assert tally(done.stderr) == (3 * 21 * 2, 3 * 2, 0)
    refusals = [json.loads(line) for line in (store / "rejected_prometheus.jsonl").read_text().splitlines()]
    assert sum(refusal["samples"] for refusal in refusals) == 3 * 2
    for refusal in refusals:
        assert "too big" in refusal["answer"]
        assert 'instance="long"' in refusal["series"]
    assert {labels: [t_ms for t_ms, _ in pairs] for labels, pairs in found.items()} == {
        labels: [t_ms for t_ms, value in sorted(samples.items()) if value != STALE_NAN]
        for labels, samples in expected(store).items()
        if ("instance", "long") not in labels
    }


IGNORED = "vm_rows_ignored_total"


@every
@pytest.mark.parametrize(
    ("flag", "age_ms", "before", "counter"),
    [
        ("-maxLabelsPerTimeseries=1", 59_000, "vm_metrics_with_dropped_labels_total", "too_many_labels"),
        ("-maxLabelValueLen=3", 59_000, "vm_too_long_label_values_total", "too_long_label_value"),
        ("-retentionPeriod=1d", 3 * DAY_MS, None, "small_timestamp"),
    ],
    ids=["too many labels", "a long label", "too old"],
)
def test_victoriametrics_drops_samples_silently(
    run: Run,
    tmp_path: Path,
    program: Callable[[str], Path],
    name: str,
    flag: str,
    age_ms: int,
    before: str | None,
    counter: str,
) -> None:
    """It still answers 204, so they count as delivered; only its own counters show them.

    Before 1.108 it dropped labels, and kept the series under the remaining ones.
    """
    store, start_ms = tmp_path / "vmm_metrics", NOW - age_ms
    fill(store, header("a", start_ms - 500), seconds(5, start_ms))
    with VictoriaMetrics(program(name), flag) as receiver:
        done = run("rondo-push", store, "--remote-write", receiver.write_url, "-v", "--no-health")
        assert tally(done.stderr) == (5 * 2, 0, 0)
        found = receiver.samples(ALL)
        kept = before if version(name) < (1, 108) else None
        assert receiver.counted(kept or f'{IGNORED}{{reason="{counter}"}}') > 0
    assert len(found) == (2 if kept else 0)
    assert found.keys() != expected(store).keys()


@every
def test_series_over_a_limit_are_dropped_silently(
    run: Run, tmp_path: Path, program: Callable[[str], Path], name: str
) -> None:
    """VictoriaMetrics counts series with a Bloom filter: of those over the limit, one in sixteen passes."""
    store, start_ms = tmp_path / "vmm_metrics", NOW - 59_000
    for letter in string.ascii_letters[:20]:
        fill(store, header(letter, start_ms - 500), seconds(5, start_ms))
    with VictoriaMetrics(program(name), "-storage.maxDailySeries=1") as receiver:
        done = run("rondo-push", store, "--remote-write", receiver.write_url, "-v", "--no-health")
        assert tally(done.stderr) == (20 * 5 * 2, 0, 0)
        found = receiver.samples(ALL)
        assert receiver.counted("vm_daily_series_limit_rows_dropped_total") > 0
    assert 0 < len(found) < 20 * 2
    assert found.keys() < expected(store).keys()
