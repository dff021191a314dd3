"""The line for cron in deploy/README.md, run like cron does; and that page's table of panels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devtools.receivers.prometheus import Prometheus, free_port
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "deploy" / "README.md").read_text()
BIN = Path(sys.executable).parent


@pytest.fixture
def store(tmp_path: Path, run: Run) -> Path:
    """A store with the life of a VM."""
    stream, store = tmp_path / "vm.stream", tmp_path / "vmm_metrics"
    assert run("rondo-vmm", "--duration", "1s", "--instance", "vm-1", "--output", stream).returncode == 0
    with stream.open("rb") as standard_input:
        assert run("rondo-store", store, stdin=standard_input).returncode == 0
    return store


def by_cron(store: Path, url: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the page's line like crontab(5): by sh, in the user's home, with almost no environment."""
    (line,) = re.findall(r"^(?:\S+ ){5}rondo /usr/local/bin/rondo-push .*$", README, re.MULTILINE)
    *when, user, command = line.split(" ", 6)
    assert when == ["*"] * 5
    assert "%" not in command  # cron would turn it into a newline
    for there, here in (
        ("/usr/local/bin/", f"{BIN}/"),
        ("/var/lib/rondo/vmm_metrics", str(store)),
        ("http://prometheus:9090/api/v1/write", url),
    ):
        assert there in command
        command = command.replace(there, here)
    environment = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "HOME": str(home), "LOGNAME": user}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_line_delivers_without_output_each_time(
    store: Path, prometheus: Prometheus, tmp_path: Path
) -> None:
    for _ in range(2):
        ran = by_cron(store, prometheus.write_url, tmp_path)
        assert (ran.returncode, ran.stdout) == (0, "")  # cron would mail any output
    assert prometheus.samples('vmm_uptime_seconds{instance="vm-1",host="web-1"}')


def test_an_error_is_one_line_for_the_mail(store: Path, tmp_path: Path) -> None:
    ran = by_cron(store, f"http://127.0.0.1:{free_port()}/api/v1/write", tmp_path)
    assert ran.returncode == 75
    assert re.fullmatch(r"rondo-push: http\S+: Connection refused\n", ran.stdout)


@pytest.mark.parametrize("name", ["rondo-vmm-dashboard.json", "rondo-fleet-dashboard.json"])
def test_the_page_has_a_row_for_each_panel(name: str) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / name).read_text())
    _, _, rest = README.partition(f'(grafana/{name}), "{dashboard["title"]}"')
    rows = re.search(r"\n\| panel .*\n\|.*\n((?:\|.*\n)+)", rest)
    assert rows, f"deploy/README.md has no table of the panels of {name}"
    shown = [row.split("|")[1].strip() for row in rows[1].splitlines()]
    assert shown == [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]
