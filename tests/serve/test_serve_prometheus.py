"""A real Prometheus that reads a store: its answers equal those after a push of the same store."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from devtools.grafana.dashboards import DASHBOARDS, Range, load, panels, queries, run
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus
from tests.support.needs import PATIENCE_S, must_have
from tests.support.real_receivers import PROMETHEUS
from tests.support.serve.serve_host import (
    ROOT,
    Served,
    being_stored,
    fill_with_changes,
    fill_with_lives,
    life,
    serving,
    until,
)

EXPRESSIONS = (
    '{__name__=~".+"}[1h]',
    'vcpu_exits_total{instance="vm-1"}[1h]',
    'count({instance!=""})',
    "sum by (reason) (rate(vcpu_exits_total[5s]))",
    "sum by (instance) (increase(vcpu_exits_total[10s]))",
    "avg by (instance) (vmm_rss_bytes)",
    "max_over_time(vmm_rss_bytes[30s])",
    "count_over_time(vmm_rss_bytes[1m])",
    "changes(vcpu_exits_total[1m])",
    'rate(vcpu_exits_total{instance=~"vm-.+|disk",reason!="hlt"}[5s])',
    'blk_bytes_total or vmm_rss_bytes{instance="disk"}',
    'topk(1, vmm_rss_bytes{instance="vm-1"})',
    'vmm_rss_bytes{job="mine"}',
    'vmm_rss_bytes{zone=""}',
    "quantile(0.5, vmm_rss_bytes offset 30s)",
    "max_over_time(sum(rate(vcpu_exits_total[5s]))[30s:5s])",
)


NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")


class Pair(NamedTuple):
    """Two Prometheus: one filled by a push, one that reads the store."""

    pushed: str
    reads: str
    served: Served
    now_s: float


@pytest.fixture(scope="module", params=PROMETHEUS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """With Debian 12's Prometheus and newer ones, which request samples or streamed chunks."""
    try:
        program = fetch(request.param)
    except LookupError as exc:
        must_have(str(exc))
    store = tmp_path_factory.mktemp("served") / "vmm_metrics"
    now_s = time.time()
    fill_with_lives(store, int(now_s * 1000))
    fill_with_changes(store, int(now_s * 1000))
    with serving(store) as served, Prometheus(program) as pushed, reading(program, served.url) as reads:
        push(store, pushed.write_url)
        yield Pair(pushed.url, reads.url, served, now_s)


def reading(program: Path, url: str, more: str = "", **settings: object) -> Prometheus:
    read = {"url": f"{url}/api/v1/read", "read_recent": True, **settings}
    return Prometheus(program, config=yaml.safe_dump({"remote_read": [read]}) + more)


def push(store: Path, url: str, *flags: str) -> None:
    command: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-push", store, "--no-health"]
    command += ["--remote-write", url, *flags]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)


def ask(url: str, expression: str, now_s: float, *, is_range: bool) -> tuple[Any, list[str]]:
    """The result, sorted, and the warnings."""
    asked: dict[str, object] = {"query": expression}
    asked |= {"start": now_s - 320, "end": now_s, "step": 1} if is_range else {"time": now_s - 60}
    path = "query_range" if is_range else "query"
    with urllib.request.urlopen(
        f"{url}/api/v1/{path}?{urllib.parse.urlencode(asked)}", timeout=PATIENCE_S
    ) as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    result = sorted(found["data"]["result"], key=lambda one: json.dumps(one["metric"], sort_keys=True))
    return result, found.get("warnings", [])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_answers_equal_those_after_a_push(pair: Pair, expression: str) -> None:
    for is_range in (False, True):
        if is_range and expression.endswith("]"):
            continue
        expected, _ = ask(pair.pushed, expression, pair.now_s, is_range=is_range)
        found, warnings = ask(pair.reads, expression, pair.now_s, is_range=is_range)
        assert to_twelve_digits(found) == to_twelve_digits(expected)
        assert warnings == []
        assert expected or "job" in expression or not is_range


def test_no_compared_answer_is_empty(pair: Pair) -> None:
    asked = [ask(pair.reads, one, pair.now_s, is_range=not one.endswith("]"))[0] for one in EXPRESSIONS]
    assert all(asked)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_equal_those_after_a_push(pair: Pair, path: Path) -> None:
    shown = Range(pair.now_s - 300, pair.now_s)
    shows = 0
    for query in queries(load(path), shown):
        found = [
            sorted(to_twelve_digits(run(url, query, shown)), key=as_text) for url in (pair.pushed, pair.reads)
        ]
        assert found[0] == found[1], query.expression
        shows += bool(found[0])
    assert shows > len(panels(load(path))) / 2  # the others show rondo's own metrics


def to_twelve_digits(value: Any) -> Any:
    """An answer with rounded numbers: the last digits of a sum depend on its order."""
    if isinstance(value, list):
        return [to_twelve_digits(one) for one in value]
    if isinstance(value, dict):
        return {key: to_twelve_digits(one) for key, one in value.items()}
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"{float(value):.12g}"
    return value


def as_text(one: dict[str, Any]) -> str:
    return json.dumps(one, sort_keys=True)


def test_labels_alone_are_read_without_samples(pair: Pair) -> None:
    samples = b"serve_read_samples_total{} "
    before = pair.served.ask("/metrics").body.split(samples)[1].split()[0]
    query = urllib.parse.urlencode({"match[]": "vmm_rss_bytes", "start": pair.now_s - 600, "end": pair.now_s})
    found = []
    for url in (pair.pushed, pair.reads):
        with urllib.request.urlopen(f"{url}/api/v1/series?{query}", timeout=PATIENCE_S) as answer:
            found.append(sorted(json.dumps(one, sort_keys=True) for one in json.load(answer)["data"]))
    assert found[0] == found[1] != []
    assert pair.served.ask("/metrics").body.split(samples)[1].split()[0] == before


def test_a_store_both_pushed_and_read_counts_once(tmp_path: Path, program: Callable[[str], Path]) -> None:
    store, now_s = tmp_path / "vmm_metrics", time.time()
    fill_with_lives(store, int(now_s * 1000))
    with serving(store) as served, Prometheus(program("prometheus")) as alone:
        push(store, alone.write_url)
        with reading(program("prometheus"), served.url) as both:
            push(store, both.write_url, "--cursor", "both")
            for expression in EXPRESSIONS:
                is_range = not expression.endswith("]")
                expected, _ = ask(alone.url, expression, now_s, is_range=is_range)
                assert ask(both.url, expression, now_s, is_range=is_range) == (expected, [])


def test_a_missing_server_is_a_warning(tmp_path: Path, program: Callable[[str], Path]) -> None:
    store, now_s = tmp_path / "vmm_metrics", time.time()
    fill_with_lives(store, int(now_s * 1000))
    with serving(store) as served, reading(program("prometheus"), served.url) as reads:
        assert ask(reads.url, "vmm_rss_bytes[1h]", now_s, is_range=False)[0]
        served.process.kill()
        served.process.wait()
        found, warnings = ask(reads.url, "vmm_rss_bytes[1h]", now_s, is_range=False)
        assert found == []
        assert len(warnings) == 1
        served.process.returncode = 0  # the test has killed it


def test_external_labels(tmp_path: Path, program: Callable[[str], Path]) -> None:
    """A Prometheus adds its external labels to each query; rondo-serve with the same labels matches them."""
    store, now_s = tmp_path / "vmm_metrics", time.time()
    fill_with_lives(store, int(now_s * 1000))
    more = "global: {external_labels: {region: eu}}\n"
    with (
        serving(store) as without,
        serving(store, "--external-label", "region=eu", "--job", "hosts") as served,
        reading(program("prometheus"), without.url, more) as empty,
        reading(program("prometheus"), served.url, more) as reads,
    ):
        assert ask(empty.url, "vmm_rss_bytes[1h]", now_s, is_range=False)[0] == []
        found, _ = ask(reads.url, 'vmm_rss_bytes{instance="vm-1"}[1h]', now_s, is_range=False)
        assert [one["metric"]["job"] for one in found] == ["hosts"]


def test_federate_gives_label_values_and_changes_no_count(
    tmp_path: Path, program: Callable[[str], Path]
) -> None:
    """For a running VM: a scrape with the ticks' own times gives the same samples again."""
    store, now_s = tmp_path / "vmm_metrics", time.time()
    start_ms = int(now_s) * 1000 - 60_000
    streams = [life(name, start_ms, 60) for name in ("vm-1", "vm-2")]
    with being_stored(store, *streams, ticks=120), serving(store) as served:
        scrape = {
            "job_name": "rondo",
            "honor_labels": True,
            "scrape_interval": "1s",
            "metrics_path": "/federate",
            "params": {"match[]": ["vmm_rss_bytes"]},
            "static_configs": [{"targets": [served.url.removeprefix("http://")]}],
        }
        more = yaml.safe_dump({"scrape_configs": [scrape]})
        with reading(program("prometheus"), served.url, more) as reads:
            until(lambda: instances(reads.url) == ["vm-1", "vm-2"])
            counts, _ = ask(reads.url, "count_over_time(vmm_rss_bytes[1h])", now_s + 60, is_range=False)
            assert [one["value"][1] for one in counts] == ["60", "60"]


def instances(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/api/v1/label/instance/values", timeout=PATIENCE_S) as answer:
        return [one for one in json.load(answer)["data"] if one.startswith("vm-")]


def test_a_too_large_query_gets_advice(tmp_path: Path, program: Callable[[str], Path]) -> None:
    store, now_s = tmp_path / "vmm_metrics", time.time()
    fill_with_lives(store, int(now_s * 1000))
    with (
        serving(store, "--max-samples", "100") as served,
        reading(program("prometheus"), served.url) as reads,
    ):
        found, (warning,) = ask(reads.url, "vmm_rss_bytes[1h]", now_s, is_range=False)
        assert found == []
        assert "more than 100 samples" in warning
        found, (warning,) = ask(reads.url, 'vmm_rss_bytes{instance=~"(a+)+"}[1h]', now_s, is_range=False)
        assert found == []
        assert "may take for ever" in warning


def test_a_promql_query_gets_a_404_with_instructions(tmp_path: Path) -> None:
    with serving_of_lives(tmp_path) as served:
        answer = served.ask("/api/v1/query?query=up")
        assert answer.status == 404
        assert "remote_read:" in answer.text


def serving_of_lives(tmp_path: Path) -> AbstractContextManager[Served]:
    fill_with_lives(tmp_path / "s", int(time.time() * 1000))
    return serving(tmp_path / "s")
