"""What the hosting of the repository reads: workflows, hooks, issue forms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in load(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_make_targets_that_exist(workflow: Path) -> None:
    targets = {word for step in steps(workflow) for word in re.findall(r"\bmake (\S+)", step.get("run", ""))}
    assert targets
    assert targets <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_uses_the_host_s_own_actions_by_major_tag_and_may_only_read(workflow: Path) -> None:
    for step in steps(workflow):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
    assert load(workflow)["permissions"] == {"contents": "read"}


def test_the_workflows_cover_every_supported_python() -> None:
    runs = {step["run"] for workflow in WORKFLOWS for step in steps(workflow) if "run" in step}
    assert {"make check", "make coverage", "make test", "make test-long"} <= runs
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = load(ROOT / ".github" / "workflows" / "check.yml")["jobs"]["test"]["strategy"]["matrix"][
        "python"
    ]
    assert f">={pythons[0]}" == project["requires-python"]
    assert pythons == [f"3.{minor}" for minor in range(11, 11 + len(pythons))]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_fields_with_labels(form: Path) -> None:
    content = load(form)
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in fields)


def test_commit_hooks_are_make_checks_commands_and_fetch_nothing() -> None:
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert check
    checks = [line.split()[0] for line in check[1].splitlines()]
    (local,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [hook["language"] for hook in local["hooks"]] == ["system"] * len(checks)
    assert [hook["entry"].split()[0] for hook in local["hooks"]] == [f".venv/bin/{name}" for name in checks]
