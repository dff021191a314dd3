"""`make demo` as it is after the set-up, and the commands that it says to go on with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools import ROOT
from devtools.demo_programs import has_kvm
from tests.support.needs import PATIENCE_S, must_have


@pytest.fixture(scope="module")
def shown(program: Callable[[str], Path]) -> str:
    """What a short demo prints."""
    program("prometheus")
    if has_kvm():
        program("qemu-system-x86_64")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py", "--duration", "2"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_everything_arrives_of_a_vm_of_ours_and_of_qemus(shown: str) -> None:
    assert "All of it arrived, to the last bit" in shown
    assert shown.count(" ticks to expect.") == (2 if has_kvm() else 1)
    assert ("No QEMU VM for rondo-attach to watch" in shown) is not has_kvm()
    assert "  NO " not in shown


def test_the_page_is_live_while_it_runs_and_no_longer(shown: str) -> None:
    url = re.search(r"Live page while this runs: (http://127\.0\.0\.1:\d+/)", shown)
    assert url is not None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url[1], timeout=PATIENCE_S)


def test_the_commands_to_go_on_with_work_as_printed(shown: str) -> None:
    _, _, tail = shown.partition("To go on from here:\n\n")
    printed = [line.strip() for line in tail.splitlines()]
    export, *commands = printed
    assert export.startswith("export PATH=")
    assert len(commands) == 6
    for command in commands:
        # Without rondo's own on the PATH, as somebody's shell is.
        environment = os.environ | {"PATH": "/usr/bin:/bin"}
        serves = command.startswith("rondo-serve")
        if serves:  # the port that it names may be taken here
            command = re.sub(r":\d+ .*", ":0", command)
        process = subprocess.Popen(
            ["sh", "-c", f"{export}; exec {command}"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            if serves:
                assert process.stderr is not None
                assert "serving" in process.stderr.readline()
                process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, (command, err)
        assert serves or out, command


@pytest.mark.long
def test_from_nothing_it_takes_little_of_the_network_and_the_disk(tmp_path: Path) -> None:
    """A checkout with nothing in it but the sources, and a home with nothing at all."""
    checkout, home = tmp_path / "rondo", tmp_path / "home"
    ignored = shutil.ignore_patterns(".git", ".venv", ".tools", ".demo", ".*_cache", "build", "vmm_metrics")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    path = os.pathsep.join(one for one in os.get_exec_path() if not Path(one).is_relative_to(ROOT))
    done = subprocess.run(
        ["make", "demo"],
        cwd=checkout,
        env=kept | {"HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode and not (checkout / ".venv" / ".rondo-setup").exists():
        must_have(f"the Python packages cannot be had: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    announced, _, shown = done.stdout.partition("`make clean` removes it.")
    megabytes = [int(one) for one in re.findall(r" (\d+) MB$", announced, re.MULTILINE)]
    assert 20 < sum(megabytes) < 150
    disk = re.search(r"On disk \.venv has (\d+)\.\d MiB and \.tools has (\d+)\.\d MiB", shown)
    assert disk is not None
    assert int(disk[1]) + int(disk[2]) < 350 * 1e6 / 2**20
    assert not list((checkout / ".tools").glob("tmp*"))
