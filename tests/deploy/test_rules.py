"""The rules, checked by the real promtool: valid, each alert firing, each staying quiet."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deploy" / "rules" / "rondo.yml"
UNIT_TESTS = Path(__file__).with_name("rules_test.yml")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)


def test_promtool_finds_no_error(program: Callable[[str], Path]) -> None:
    found = promtool(program("promtool"), "check", "rules", RULES)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{len(rules())} rules found" in found.stdout


def test_each_alert_fires_and_stays_quiet(program: Callable[[str], Path]) -> None:
    found = promtool(program("promtool"), "test", "rules", UNIT_TESTS)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_has_a_test_with_firing_and_quiet_series() -> None:
    fired = {
        case["alertname"]
        for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        # Series in exp_alerts fire; promtool fails if any other series of that test fires.
        if case["exp_alerts"] and len(test["input_series"]) > len(case["exp_alerts"])
    }
    assert fired == set(ALERTS)
    queried = {
        name
        for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        for case in test.get("promql_expr_test", ())
        for name in re.findall(r"\w+:\w+:\w+", case["expr"])
    }
    assert queried == {rule["record"] for rule in rules() if "record" in rule}


# One change for each rule.
BROKEN = {
    "instance:vcpu_exits:rate1m": ("sum without (reason)", "avg without (reason)"),
    "instance:blk_requests:rate1m": ("rate(blk_requests_total[1m]", "increase(blk_requests_total[1m]"),
    "instance:blk_bytes:rate1m": ("rate(blk_bytes_total[1m]", "deriv(blk_bytes_total[1m]"),
    "job:vmm_alive:count": ("count by (job) (vmm_uptime_seconds)\n", "count(vmm_uptime_seconds)\n"),
    "job:vmm_rss_bytes:sum": ("sum by (job) (vmm_rss_bytes)", "max by (job) (vmm_rss_bytes)"),
    "job:vmm_born:count1m": ("+ sum by (job) (resets(vmm_uptime_seconds[6m] offset 1m))\n", "\n"),
    "job:vmm_ended:count1m": ("(vmm_uptime_seconds offset 2m) or", "(vmm_uptime_seconds) or"),
    "RondoVmStuck": ("== 0\n", "== 1\n"),
    "RondoExitStorm": ("> 50000", "> 70000"),
    "RondoVmSteal": ("> 0.25\n", "> 0.5\n"),
    "RondoBlockSlow": ("> 0.1 and vmm_uptime_seconds", "> 0.1"),
    "RondoDescriptorLeak": ("offset 10m) > 10", "offset 10m) > 20"),
    "RondoRssGrowth": ("> 1.25 *", "> 5 *"),
    "RondoTicksLate": ('{result="late"}[2m]', '{result="late"}[20m]'),
    "RondoTicksAhead": ('{result="ahead"}[2m]', '{result="late"}[2m]'),
    "RondoStoreErrors": ("stream|store|stalled", "stream|store|connection"),
    "RondoPushBehind": ("push_behind_seconds > 180", "push_behind_seconds > 60"),
    "RondoPushRejected": ("[6h] offset 5m", "[5m] offset 5m"),
    "RondoAttachLostEvents": ("attach_overruns_total[5m]) > 0", "attach_overruns_total[5m]) > 5"),
    "RondoAttachLostExits": ("attach_lost_exits_total[5m]", "attach_lost_exits_total[5m] offset 5m"),
    "RondoAttachLostTicks": ("attach_lost_ticks_total[5m]", "attach_lost_ticks_total[1m]"),
    "RondoAttachBehind": ("attach_tick_lag_ns[2m]) / 1e9 > 0.5", "attach_tick_lag_ns[2m]) / 1e9 > 0.05"),
    "RondoDeliverySilent": ('{result="stored"}[10m]', '{result="stored"}[4m]'),
}


def test_the_unit_tests_bite(program: Callable[[str], Path], tmp_path: Path) -> None:
    """With every rule broken, promtool reports each."""
    text = RULES.read_text()
    for was, becomes in BROKEN.values():
        assert was in text, was
        text = text.replace(was, becomes, 1)
    (tmp_path / "tests" / "deploy").mkdir(parents=True)
    (tmp_path / "deploy" / "rules").mkdir(parents=True)
    (tmp_path / "deploy" / "rules" / RULES.name).write_text(text)
    copy = shutil.copy(UNIT_TESTS, tmp_path / "tests" / "deploy")
    found = promtool(program("promtool"), "test", "rules", copy)
    assert found.returncode == 1
    failed = set(re.findall(r'(?:alertname: |expr: ")([\w:]+)', found.stdout + found.stderr))
    assert failed == set(BROKEN) == {rule.get("alert", rule.get("record")) for rule in rules()}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_and_a_runbook(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    runbook = re.fullmatch(r'([\w/.]+), "(.+)"', alert["annotations"]["runbook"])
    assert runbook is not None
    page, heading = runbook.groups()
    assert re.search(rf"^##+ {re.escape(heading)}$", (ROOT / page).read_text(), re.MULTILINE)
    table = (ROOT / "docs" / "dashboards.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert f"| `{name}` | {alert['labels']['severity']} |" in table
