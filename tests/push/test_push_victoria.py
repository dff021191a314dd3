"""A real VictoriaMetrics: it keeps what is sent twice twice, unless it is told not to."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import FaultProxy
from receivers import Key, expected, fill, header, seconds, ticks
from victoria import victoria

from rondo_tools.push.encode import STALE_NAN

NOW = int(time.time()) * 1000
ONCE = "-dedup.minScrapeInterval=1ms"

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def held(url: str) -> dict[Key, list[tuple[int, float]]]:
    """All samples that it shows but for stale markers, in order of time, duplicates too."""
    with urllib.request.urlopen(f"{url}/internal/force_flush", timeout=30):
        pass
    asked = urllib.parse.urlencode({"match[]": '{job="rondo-vmm",instance!="rondo-push"}'})
    found = {}
    with urllib.request.urlopen(f"{url}/api/v1/export?{asked}", timeout=30) as answer:
        for line in answer:
            series = json.loads(line)
            pairs = zip(series["timestamps"], series["values"], strict=True)
            labels = tuple(sorted(series["metric"].items()))
            found[labels] = sorted((t_ms, value) for t_ms, value in pairs if value is not None)
    return found


@pytest.mark.parametrize("flags", [(ONCE,), ()], ids=["once", "as it comes"])
def test_every_sample_is_there_although_an_answer_was_lost(
    run: Run, tmp_path: Path, program: Callable[[str], Path], flags: tuple[str, ...]
) -> None:
    store, start_ms = tmp_path / "vmm_metrics", NOW - 60_000
    nan = float("nan")
    rows = ticks(*((start_ms + 1000 * i, [i / 8, nan if i % 5 == 2 else i]) for i in range(30)))
    fill(store, header("a", start_ms - 500), rows, "poweroff")
    fill(store, header("b", start_ms), seconds(30, start_ms + 333), "reset")
    with (
        victoria(program("victoria-metrics"), tmp_path, *flags) as url,
        FaultProxy(f"{url}/api/v1/write") as proxy,
    ):
        proxy.follow(["lost answer"])
        done = run("rondo-push", store, "--remote-write", proxy.url)
        assert (done.returncode, proxy.done[0]) == (0, "lost answer"), done.stderr
        found = held(url)
    copies = 1 if flags else 2
    wanted = expected(store)
    assert found.keys() == wanted.keys()
    for labels, samples in wanted.items():
        times = [t_ms for t_ms, value in sorted(samples.items()) if value != STALE_NAN]
        assert [t_ms for t_ms, _ in found[labels]] == [t_ms for t_ms in times for _ in range(copies)]
    heat = next(
        pairs for labels, pairs in found.items() if ("instance", "a") in labels and ("core", "0") in labels
    )
    assert heat == [(start_ms + 1000 * i, i / 8) for i in range(30) for _ in range(copies)]
