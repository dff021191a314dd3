"""docs/store.md: runs its commands for dumps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.store.check import Checker
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S
from tests.support.restore_host import answers
from tests.support.store.journal_fixtures import T0, TIERS, Writer, fill

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "store.md").read_text()

Shell = Callable[[str], Path]


def commands(title: str) -> list[str]:
    """The blocks of commands under a title of the page."""
    section = PAGE.split(f"\n### {title}\n")[1]
    return re.findall(r"```bash\n(.*?)```", re.split(r"\n##+ ", section)[0], re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, program: Callable[[str], Path]) -> Path:
    """A folder with stores of hosts, and programs on its PATH."""
    for number, path in enumerate(("vmm_metrics", "host-a/vmm_metrics", "host-b/vmm_metrics")):
        with Writer(tmp_path / path, TIERS, seed=number) as writer:
            writer.tick((f"vm-of-{path}", T0), T0 + 1)
            fill(writer) if number == 0 else None
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("rondo-query", "rondo-store"):
        script = (
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "bin" / name))} "$@"\n'
        )
        (tools / name).write_text(script)
    # A folder stands for each host.
    (tools / "ssh").write_text('#!/bin/sh\nmkdir -p "$1" && cd "$1" && shift && exec "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tools / "zstd").symlink_to(program("zstd"))
    return tmp_path


def run(here: Path, block: str) -> None:
    environment = os.environ | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", block],
        cwd=here,
        env=environment,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def check(here: Path, name: str) -> None:
    assert answers(here / name) == answers(here / "vmm_metrics")
    assert list(Checker(here / name).findings()) == []


def test_moving_a_store(here: Path) -> None:
    local, remote = commands("Moving a store")
    run(here, local)
    check(here, "moved_metrics")
    run(here, remote)
    check(here, "new-host/vmm_metrics")


def test_changing_tiers(here: Path) -> None:
    (block,) = commands("Changing tiers")
    before = answers(here / "vmm_metrics")
    run(here, block)
    assert answers(here / "old_metrics") == before
    after = answers(here / "vmm_metrics")
    assert Store(here / "vmm_metrics").tiers == parse_tiers("1s:10m,5m:30d,1h:365d")
    assert {key: one["tier 1"] for key, one in after.items()} == {
        key: one["tier 2"] for key, one in before.items()
    }
    assert all(one["tier 2"][0] for one in after.values())
    assert list(Checker(here / "vmm_metrics").findings()) == []


def test_merging_hosts(here: Path) -> None:
    (block,) = commands("Merging hosts")
    run(here, block)
    run(here, block)
    merged = answers(here / "all_metrics")
    assert merged == answers(here / "host-a/vmm_metrics") | answers(here / "host-b/vmm_metrics")


def test_a_nightly_backup(here: Path) -> None:
    backup, put_back = commands("A nightly backup")
    run(here, backup)
    before = (here / "vmm_metrics.dump.zst").read_bytes()
    run(here, put_back)
    check(here, "restored_metrics")
    shutil.rmtree(here / "vmm_metrics")
    with pytest.raises(AssertionError, match="no store there"):
        run(here, backup)  # a failed dump does not change the backup
    assert (here / "vmm_metrics.dump.zst").read_bytes() == before
