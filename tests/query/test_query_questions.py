"""Each question of docs/query.md has a one-line answer, which runs here in a shell, on a store with known
answers (`fifty_vms`)."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from rondo_tools.view.table import iso
from tests.support.query.fifty_vms import BURNT_MOST, DIED, DIED_MS, LAGS, MIB, make, write_program

PAGE = Path(__file__).resolve().parents[2] / "docs" / "query.md"


def answer_to(question: str) -> str:
    """The command below the comment that begins with the question."""
    (found,) = re.findall(
        rf"^# {re.escape(question)}[^\n]*\n((?:[^#\n].*\n)+)", PAGE.read_text(), re.MULTILINE
    )
    return str(found)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store, as `vmm_metrics`, and a rondo-query with the clock of that night."""
    folder = tmp_path_factory.mktemp("night")
    make(folder / "vmm_metrics")
    write_program(folder)
    return folder


def ask(night: Path, question: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{night}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["bash", "-c", answer_to(question)], cwd=night, env=env, capture_output=True, text=True, check=False
    )


def test_which_vm_burnt_most_in_the_last_five_minutes(night: Path) -> None:
    done = ask(night, "Which VM burnt most in the last five minutes?")
    assert done.returncode == 0
    _, line = done.stdout.splitlines()
    assert line.split()[:4] == [BURNT_MOST, "running", "15m", "1.5M"]


def test_is_delivery_behind(night: Path) -> None:
    done = ask(night, "Is delivery behind?")
    assert done.returncode == 75
    assert done.stdout.splitlines()[-1].split()[2:4] == ["89.5", LAGS]


def test_what_did_this_vm_do_in_its_last_ten_seconds(night: Path) -> None:
    done = ask(night, "What did this VM do in its last ten seconds?")
    heading, *lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [DIED] * 10
    assert lines[-1].split()[0] == iso(DIED_MS)
    memory = heading.split().index("vmm_rss_bytes")
    assert [int(line.split()[memory]) for line in lines] == [2 * MIB << second for second in range(10)]
