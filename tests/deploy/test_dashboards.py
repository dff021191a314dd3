"""The dashboards: their form, and every expression on a Prometheus with samples of real VMs."""

from __future__ import annotations

import json
import math
import re
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from devtools.grafana.dashboards import (
    ALL,
    DASHBOARDS,
    Query,
    QueryError,
    Range,
    ask,
    fill,
    label_values,
    load,
    panels,
    queries,
    run,
)
from devtools.programs import NEWER_SUITES
from devtools.receivers.prometheus import Prometheus
from devtools.receivers.victoria import VictoriaMetrics
from rondo_tools import catalog
from rondo_tools.attach import self_metrics as attach_health
from rondo_tools.push import self_metrics as push_health
from rondo_tools.store.folder import Folder
from rondo_tools.store.keeper import Keeper
from rondo_tools.store.server import self_metrics as store_health
from rondo_tools.stream import End, Header, Tick
from tests.support.deploy.lives import RULES, Filled, push
from tests.support.needs import PATIENCE_S

VMS = ["vm-1", "vm-2", "vm-3", "vm-4", "vm-5"]
ROLLUPS = ALL | {"job": "rollups", "resolution": "10s"}

# There was one push of roll-ups, so the tools' own metrics have one sample, or none yet.
DELIVERY = {"Seconds Behind", "Rejected Samples", "Late Ticks", "VMs Watched", "Watcher Lag", "Lost Ticks"}

TITLES = {
    "Rondo Demo VMM": {
        "VMM Uptime": "vmm_uptime_seconds",
        "RSS Memory": "vmm_rss_bytes",
        "Open FDs": "vmm_open_fds",
        "vCPU Exits by Reason": "vcpu_exits_total",
        "vCPU Exit Duration": "vcpu_exit_duration_ns",
        "vCPU Run Duration": "vcpu_run_duration_ns",
        "vCPU CPU Time": "vcpu_cpu_seconds_total",
        "vCPU Steal": "vcpu_wait_seconds_total",
        "VMM CPU Time": "vmm_cpu_seconds_total",
        "Block Requests by Op": "blk_requests_total",
        "Block Bytes by Direction": "blk_bytes_total",
        "Block Request Duration": "blk_request_duration_ns",
        "Seconds Behind": "push_behind_seconds",
        "Rejected Samples": "push_samples_total",
        "Late Ticks": "store_ticks_total",
    },
    "Rondo Fleet": {
        "VMs Alive": "vmm_uptime_seconds",
        "VMs Born and Ended per Minute": "vmm_uptime_seconds",
        "Lifetimes": "vmm_uptime_seconds",
        "Top 10 by Exits": "vcpu_exits_total",
        "Top 10 by Block Bytes": "blk_bytes_total",
        "Top 10 by RSS": "vmm_rss_bytes",
        "Exits by Reason, Sum": "vcpu_exits_total",
        "Block Bytes by Direction, Sum": "blk_bytes_total",
        "RSS Memory, Sum": "vmm_rss_bytes",
        "Exits, Quantiles": "vcpu_exits_total",
        "Exit Duration, Quantiles": "vcpu_exit_duration_ns",
        "Block Request Duration, Quantiles": "blk_request_duration_ns",
        "RSS Memory, Quantiles": "vmm_rss_bytes",
        "VMs Watched": "attach_vms",
        "Watcher Lag": "attach_tick_lag_ns",
        "Lost Ticks": "attach_lost_ticks_total",
    },
}
METRIC = re.compile(r"\b(?:vmm|vcpu|blk|net|push|store|attach)_\w+")
KNOWN = {s.name for s in (*catalog.ALL, *push_health.SERIES, *store_health.SERIES, *attach_health.SERIES)}
# These fire if the test machine is overloaded, which is not an error of the rule.
OF_LOAD = {"RondoVmSteal"}

every = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def differences(ours: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """The differences between two JSON values; defaults that `theirs` adds do not count."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from differences(value, theirs[key], f"{at}.{key}")
            else:
                yield f"{at}.{key}: not in the model"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{at}[{number}]")
    elif ours != theirs:
        yield f"{at}: {ours!r} became {theirs!r}"


def through_the_model(dashboard: dict[str, Any]) -> set[str]:
    """The parts of a dashboard that Grafana's own model loses or changes."""
    register_default_plugins()  # the models of panels and queries
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    return set(differences(dashboard, again))


# Keys of an export for other installations, which the model lacks, and a newer setting.
BESIDE_THE_MODEL = {
    f".{name}: not in the model" for name in ("__inputs", "__requires", "timepicker.nowDelay")
}


@every
def test_grafanas_model_knows_every_key(path: Path) -> None:
    lost = through_the_model(load(path))
    assert {
        one for one in lost if not re.search(r"templating\.list\[\d\]\.definition", one)
    } == BESIDE_THE_MODEL


@every
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('"gridPos"', '"gridPosition"'),
        ('"legendFormat"', '"legend"'),
        ('"fillOpacity"', '"fill"'),
        ('"unit"', '"units"'),
    ],
)
def test_the_model_finds_a_typo(path: Path, was: str, becomes: str) -> None:
    text = path.read_text().replace(was, becomes)
    assert through_the_model(json.loads(text)) > through_the_model(load(path))


@every
def test_panels_follow_the_rules(path: Path) -> None:
    dashboard = load(path)
    titles = TITLES[dashboard["title"]]
    assert [panel["title"] for panel in panels(dashboard)] == list(titles)
    for panel in panels(dashboard):
        for target in panel["targets"]:
            # A VM's uptime shows whether it is alive.
            assert set(METRIC.findall(target["expr"])) - {"vmm_uptime_seconds"} == {
                titles[panel["title"]]
            } - {"vmm_uptime_seconds"}
            assert panel["type"] != "timeseries" or target["interval"] in ("$resolution", "10s")
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}"
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG"[: len(panel["targets"])])
    assert [one["name"] for one in dashboard["__inputs"]] == ["DS_PROMETHEUS"]
    needed = {one["id"] for one in dashboard["__requires"] if one["type"] == "panel"}
    assert needed == {panel["type"] for panel in panels(dashboard)}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_guide_has_the_panels_in_their_order() -> None:
    guide = (DASHBOARDS[0].parent.parent / "README.md").read_text()
    section = guide.partition("\n## The panels\n")[2].partition("\n## ")[0]
    listed = re.findall(
        r"^\| (?!panel|---)(.+?) \| (.+?) \|$", section.replace("|---|---|", ""), re.MULTILINE
    )
    described = {panel["title"]: panel["description"] for path in DASHBOARDS for panel in panels(load(path))}
    assert [title for title, _ in listed] == [title for titles in TITLES.values() for title in titles]
    for title, text in listed:
        assert described[title].startswith(text), title


@every
def test_panels_tile_the_page(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in load(path)["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    rows = max(y for _, y in taken) + 1
    assert taken == {(x, y) for x in range(24) for y in range(rows)}


def test_every_vm_series_is_shown_and_no_unknown_one() -> None:
    shown = {name for path in DASHBOARDS for name in METRIC.findall(path.read_text())}
    assert shown <= KNOWN
    assert {series.name for series in catalog.SERIES} <= shown


def empty(found: Callable[[Query], Any], of: Iterator[Query]) -> set[str]:
    return {query.panel["title"] for query in of if not found(query)}


@every
def test_every_panel_shows_data(path: Path, filled: Filled) -> None:
    asked = queries(load(path), filled.shown)
    assert empty(lambda query: run(filled.url, query, filled.shown), asked) == set()


@every
def test_every_panel_shows_data_of_one_vm(path: Path, filled: Filled) -> None:
    asked = queries(load(path), filled.shown, ALL | {"instance": "vm-1", "job": "rondo-vmm"})
    assert empty(lambda query: run(filled.url, query, filled.shown), asked) == set()


@every
def test_every_panel_shows_rollups(path: Path, filled: Filled) -> None:
    shown = Range(filled.shown.start_s, filled.shown.end_s + 10)  # the last roll-up is at a VM's end
    asked = queries(load(path), shown, ROLLUPS)
    assert empty(lambda query: run(filled.url, query, shown), asked) <= DELIVERY


def test_a_query_that_mixes_two_hosts_is_found(filled: Filled) -> None:
    with pytest.raises(QueryError, match="duplicate series"):
        ask(filled.url, "query", query="vmm_rss_bytes / on (instance) vmm_open_fds", time=filled.shown.end_s)
    with pytest.raises(QueryError, match="parse error"):
        ask(filled.url, "query", query="rate(vmm_rss_bytes", time=filled.shown.end_s)


@every
def test_variables_offer_the_existing_values(path: Path, filled: Filled) -> None:
    offered = {
        variable["name"]: label_values(filled.url, variable["query"]["query"], filled.shown)
        for variable in load(path)["templating"]["list"]
        if variable["type"] == "query"
    }
    assert offered["job"] == ["rollups", "rondo-vmm"]
    # Without rondo-push, rondo-store and rondo-attach, which are not VMs.
    assert offered.get("instance", VMS) == VMS
    used = {name for text in re.findall(r"\$(\w+)", path.read_text()) for name in [text]}
    names = {variable["name"] for variable in load(path)["templating"]["list"]}
    assert {name for name in used if not name.startswith("__")} == names


def value(url: str, expression: str, at_s: float) -> float:
    (series,) = ask(url, "query", query=fill(expression, ALL | {"job": "rondo-vmm"}), time=at_s)
    return float(series["value"][1])


def test_births_ends_and_lives_equal_those_in_the_store(filled: Filled) -> None:
    """Also for VMs that lived between two seconds, names with two lives, and a killed VM.

    Everything twice, because of two hosts.
    """
    fleet = load(next(path for path in DASHBOARDS if "fleet" in path.stem))
    by_title = {panel["title"]: panel["targets"] for panel in panels(fleet)}
    born, ended = (target["expr"] for target in by_title["VMs Born and Ended per Minute"])
    (alive,) = (target["expr"] for target in by_title["VMs Alive"])
    assert len(filled.lives) == 7
    events = {at_s for life in filled.lives for at_s in (life.first_s, life.over_s)}
    for at_s in sorted(event + 0.5 for event in events if event + 0.5 < filled.shown.end_s):
        begun = [life for life in filled.lives if life.first_s <= at_s]
        over = [life for life in begun if life.over_s < at_s]
        assert value(filled.url, alive, at_s) == 2 * (len(begun) - len(over)), at_s
        recent = [life for life in begun if life.first_s > at_s - 60]
        assert value(filled.url, born, at_s) == 2 * len(recent), at_s
        recent = [life for life in over if life.over_s > at_s - 60]
        assert value(filled.url, ended, at_s) == 2 * len(recent), at_s
    longest: dict[str, float] = {}
    for life in filled.lives:
        if life.over_s < filled.shown.end_s:
            longest[life.instance] = max(life.uptime_s, longest.get(life.instance, 0))
    bounds = [0, 2, 10, 60, 600, 3600, 1e9]
    range_s = round(filled.shown.end_s - filled.shown.start_s)
    for number, target in enumerate(by_title["Lifetimes"]):
        expression = target["expr"].replace("$__range", f"{range_s}s")
        wanted = sum(bounds[number] <= life < bounds[number + 1] for life in longest.values())
        assert value(filled.url, expression, filled.shown.end_s) == 2 * wanted, target["legendFormat"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_a_mean_is_shown_in_the_seconds_with_a_value(prometheus: Prometheus, tmp_path: Path) -> None:
    """The line has gaps without anything to average; that of a short life is visible."""
    now_s = int(time.time()) - 60
    none = math.nan
    means = [5.0, none, 7.0, 8.0, none, none, 3.0, none]
    with Keeper(Folder(tmp_path / "vmm_metrics")) as keeper:
        runs = [(float(now_s + at), mean) for at, mean in enumerate(means)]
        for instance, rows in (("runs", runs), ("lived", [(now_s + 2.4, 9.0)])):
            # All series have the mean's value; only the uptime, the last one, has another.
            width = len(catalog.SERIES) - 1
            ticks = [
                Tick(round(at_s * 1000), struct.pack(f"<{width + 1}d", *[mean] * width, 0.3 + at_s - now_s))
                for at_s, mean in rows
            ]
            start_ms = ticks[0].t_ms - 300
            session = keeper.begin(Header(instance, start_ms, (), 1000, catalog.SERIES))
            for tick in ticks:
                keeper.append(session, *tick)
            if instance == "lived":
                keeper.end(session, End("poweroff", ticks[-1].t_ms))
        keeper.flush()
    push(tmp_path / "vmm_metrics", prometheus.write_url)
    shown = Range(now_s - 5, now_s + 20)
    vmm = load(next(path for path in DASHBOARDS if "vmm" in path.stem))
    titles = ("vCPU Exit Duration", "vCPU Run Duration", "Block Request Duration")
    asked = [query for query in queries(vmm, shown) if query.panel["title"] in titles]
    assert len(asked) == 3
    for query in asked:
        found = {
            series["metric"]["instance"]: {at_s - now_s: float(value) for at_s, value in series["values"]}
            for series in run(prometheus.url, query, shown)
        }
        assert found == {"runs": {0: 5.0, 2: 7.0, 3: 8.0, 6: 3.0}, "lived": {3: 9.0}}


@every
def test_victoriametrics_answers_alike(path: Path, filled: Filled) -> None:
    asked = list(queries(load(path), filled.shown))
    # The one push to it gives one sample of each, perhaps after the displayed range.
    assert empty(lambda query: run(filled.victoria_url, query, filled.shown), iter(asked)) <= DELIVERY
    for query in asked:
        if query.panel["title"] in ("VMs Alive", "VMs Born and Ended per Minute"):
            there = value(filled.url, query.expression.replace('".*"', '"rondo-vmm"'), filled.shown.end_s)
            here = value(filled.victoria_url, query.expression, filled.shown.end_s)
            assert here == there / 2, query.target["legendFormat"]  # two hosts there, one here


@pytest.mark.long
@pytest.mark.parametrize("suite", NEWER_SUITES)
def test_newer_receivers_answer_alike(program: Callable[[str], Path], filled: Filled, suite: str) -> None:
    """Each expression gives the same lines; tests/serve/test_serve_prometheus.py compares their values."""
    with (
        Prometheus(program(f"prometheus-{suite}")) as prometheus,
        VictoriaMetrics(program(f"victoria-metrics-{suite}"), "-search.latencyOffset=0s") as victoria,
    ):
        push(filled.store, prometheus.write_url, "--cursor", f"new-{suite}")
        push(filled.store, prometheus.write_url, "--cursor", f"b-{suite}", "--external-label", "host=b")
        push(filled.store, victoria.write_url, "--cursor", f"victoria-{suite}")
        victoria.flush()
        for older, newer in ((filled.url, prometheus.url), (filled.victoria_url, victoria.url)):
            for query in (query for path in DASHBOARDS for query in queries(load(path), filled.shown)):
                found = [lines(url, query, filled.shown) for url in (newer, older)]
                if "topk" in query.expression:  # the tenth depends on the last tick of a running VM
                    assert all(found), query
                elif query.panel["title"] not in DELIVERY:
                    assert found[0] == found[1], query


def lines(url: str, query: Query, shown: Range) -> set[frozenset[tuple[str, str]]]:
    """The labels of each line of a panel's query; other tests check that there are lines."""
    found = (series["metric"].items() for series in run(url, query, shown))
    return {frozenset(labels) for labels in found if ("job", "rollups") not in labels}


def test_victoriametrics_knows_the_rules_language(filled: Filled) -> None:
    for rule in rules():
        found = ask(filled.victoria_url, "query", query=rule["expr"], time=filled.shown.end_s + 60)
        # It has no recording rules, so the ends cannot be computed.
        assert rule.get("alert") in OF_LOAD or bool(found) == (
            "record" in rule and "job:vmm_born:count1m" not in rule["expr"]
        ), rule


def test_the_rules_work_on_real_data(filled: Filled) -> None:
    """Recording rules have results; alerts are quiet, because nothing is wrong."""
    for rule in rules():
        # Rules that look a minute back have no result, because there are only some seconds.
        late_s = 60 if "offset 1m" in rule["expr"] else 0
        found = ask(filled.url, "query", query=rule["expr"], time=filled.shown.end_s + late_s)
        if "record" in rule:
            assert found or "job:vmm_born:count1m" in rule["expr"], rule["record"]
        elif rule["alert"] not in OF_LOAD:
            assert found == [], rule["alert"]  # test_rules.py checks that each one fires


def test_prometheus_evaluates_the_rules(filled: Filled) -> None:
    with urllib.request.urlopen(f"{filled.url}/api/v1/rules", timeout=PATIENCE_S) as answer:
        groups = json.load(answer)["data"]["groups"]
    judged = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(judged) == {rule.get("alert", rule.get("record")) for rule in rules()}
    for name, rule in judged.items():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), name
        assert rule["type"] == "recording" or rule["state"] == "inactive" or name in OF_LOAD, name
    for name in ("job:vmm_alive:count", "job:vmm_rss_bytes:sum"):  # the others look a minute back
        assert ask(filled.url, "query", query=f"last_over_time({name}[1h])", time=filled.shown.end_s), name
