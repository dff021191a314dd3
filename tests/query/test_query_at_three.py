"""Lines of "At three in the morning" in docs/query.md, run unchanged against the store of fifty VMs."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import PATIENCE_S
from tests.support.query import fifty_vms
from tests.support.query.fifty_vms import MIB

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vmm_metrics`, the store of fifty VMs, and a rondo-query whose clock is at 03:05."""
    folder = tmp_path_factory.mktemp("home")
    fifty_vms.make(folder / "vmm_metrics")
    fifty_vms.write_program(folder)
    return folder


def line_of(question: str) -> str:
    """The answer in the docs: the lines below the question, up to an empty line."""
    text = (ROOT / "docs" / "query.md").read_text()
    found = re.findall(rf"^# {re.escape(question)}\n((?:.+\n)+)", text, re.MULTILINE)
    assert len(found) == 1, question
    return str(found[0])


def answer(home: Path, question: str) -> list[list[str]]:
    """The output of the line in a shell, as fields."""
    env = {
        **os.environ,
        "PATH": f"{home}:{os.environ['PATH']}",
        "TZ": "UTC0",
        "COLUMNS": "100",
        "LINES": "30",
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-ec", line_of(question)],
        cwd=home, env=env, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def test_which_one_died_at_three(home: Path) -> None:
    _, *lines = answer(home, "Which one died at three?")
    assert [(line[0], line[3], line[4]) for line in lines] == [("vm-23", "2026-11-23T03:00:00.000Z", "error")]


def test_what_happened_to_it(home: Path) -> None:
    """Its memory exploded in the last seconds of the plot."""
    pytest.importorskip("plotext")
    lines = answer(home, "What happened to the one that died at three?")
    assert lines[-1][-1].startswith('vmm_rss_bytes{instance="vm-23"')
    text = "\n".join(" ".join(line) for line in lines)
    assert "1G┤" in text
    assert "02:59:30" in text
    heights = [line[-1] for line in lines if line and line[-1].endswith("│")]
    assert [row.rstrip("│ ").endswith("a") for row in heights].count(True) >= 1


def test_two_lives(home: Path) -> None:
    pytest.importorskip("plotext")
    lines = answer(home, "Compare two lives.")
    starts = [line[-1] for line in lines[-2:]]
    assert starts == ["2026-11-23T02:50:00.000Z", "2026-11-23T02:58:00.000Z"]
    text = "\n".join(" ".join(line) for line in lines)
    assert "since each session began" in text
    assert "0:05:00" in text
    assert "130M┤" in text or "140M┤" in text or "120M┤" in text  # 64 MiB and 70 more


def test_a_spreadsheet(home: Path) -> None:
    assert answer(home, "Give me a spreadsheet.") == []
    with (home / "memory.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    assert len(names) == 1 + 51  # fifty VMs, one of them with two lives
    assert len(rows) == 601
    assert rows[-1][0] == "2026-11-23T03:05:00.000Z"
    by_name = dict(zip(names, rows[-1], strict=True))
    assert by_name['vmm_rss_bytes{instance="vm-17",tenant="b"}'] == str(64 * MIB)
    assert by_name['vmm_rss_bytes{instance="vm-23",tenant="b"}'] == ""  # it has died
    at_three = dict(zip(names, next(row for row in rows if "T03:00:00" in row[0]), strict=True))
    assert at_three['vmm_rss_bytes{instance="vm-23",tenant="b"}'] == str(1024 * MIB)


def test_the_most_memory(home: Path) -> None:
    pytest.importorskip("plotext")
    lines = answer(home, "Which three VMs had the most memory, on average?")
    assert re.findall("vm-..", lines[-3][1]) == ["vm-07"]


def test_all_of_them_together(home: Path) -> None:
    names, *rows = answer(home, "What did all of them do together, by the reason of the exit?")
    by_reason = {
        re.findall('reason="(.+?)"', name)[0]: at for at, name in enumerate(names) if "reason" in name
    }
    # 49 VMs, one of which burns 4,950 of io; vm-31 went silent at 03:04; vm-42 begins at 03:04:51.
    at_3 = {row[0][11:19]: row for row in rows}
    assert float(at_3["03:03:00"][by_reason["hlt"]]) == 49 * 50
    assert float(at_3["03:03:00"][by_reason["io"]]) == 48 * 50 + 4950
    assert float(at_3["03:04:30"][by_reason["io"]]) == 47 * 50 + 4950
    assert float(at_3["03:04:55"][by_reason["io"]]) == 46 * 50 + 4950 + 8950
    assert float(at_3["03:05:00"][by_reason["io"]]) == 45 * 50 + 4950 + 8950  # vm-09 ticks at half seconds
    assert float(at_3["03:05:00"][by_reason["mmio"]]) == 0
