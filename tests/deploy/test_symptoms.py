"""The symptoms in deploy/README.md, provoked: the tools print these lines."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from devtools.receivers.prometheus import Prometheus, free_port
from rondo_tools.catalog import SERIES
from rondo_tools.stream import End, Header, Tick
from tests.support.fixtures import Run
from tests.support.streams import encoded

README = (Path(__file__).resolve().parents[2] / "deploy" / "README.md").read_text()


def likened(line: str) -> str:
    """A line without its variable parts: addresses, paths, numbers, messages of an endpoint."""
    line = re.sub(r"https?://[\w.:/-]*\w", "URL", line)
    line = re.sub(r"(answered 400): .*|(receiver\)): .*", r"\1\2", line)
    line = re.sub(r"\S*/\S+", "PATH", line)
    return re.sub(r"\d+", "N", line)


def documented() -> set[str]:
    """All lines of the page that begin with a tool's name."""
    found = re.findall(r"^(rondo-\w+: .*)$|`(rondo-\w+: [^`\n]*)`", README, re.MULTILINE)
    return {likened(block or inline) for block, inline in found}


class Host:
    """Runs the tools, and keeps their messages."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self.heard: set[str] = set()
        self.now_ms = time.time_ns() // 1_000_000_000 * 1000

    def run(self, *command: str | Path) -> int:
        ended = self._run(*command)
        return self._hear(ended)

    def lived(self, store: str, instance: str, start_ms: int, ticks: int = 20) -> Path:
        """Store the life of a VM; returns the store's folder."""
        path, data = self._folder / store, self._folder / f"{store}.stream"
        values = struct.pack(f"<{len(SERIES)}d", *range(len(SERIES)))
        header = Header(instance, start_ms, (), 1000, SERIES)
        life = [Tick(start_ms + number * 1000, values) for number in range(1, ticks + 1)]
        end = End("poweroff", life[-1].t_ms)
        data.write_bytes(encoded(header, *life, end))
        with data.open("rb") as standard_input:
            self._hear(self._run("rondo-store", path, stdin=standard_input))
        return path

    def _hear(self, ended: subprocess.CompletedProcess[bytes]) -> int:
        self.heard |= {likened(line) for line in ended.stderr.decode().splitlines()}
        return ended.returncode


@pytest.fixture
def host(run: Run, tmp_path: Path) -> Host:
    return Host(run, tmp_path)


def test_each_symptom_looks_as_documented(host: Host, prometheus: Prometheus, tmp_path: Path) -> None:
    here, now_ms = prometheus.write_url, host.now_ms
    nobody = f"http://127.0.0.1:{free_port()}/api/v1/write"

    # No data; 404.
    store = host.lived("m", "vm-9", now_ms - 60_000)
    assert host.run("rondo-push", tmp_path / "nowhere", "--remote-write", here) == 69
    assert host.run("rondo-push", store, "--remote-write", nobody) == 75
    assert host.run("rondo-push", store, "--remote-write", f"{prometheus.url}/nothing") == 69
    assert host.run("rondo-push", store, "--remote-write", here) == 0

    # Out of order: another store with the same VM, earlier. An hour behind it: another VM, much earlier.
    again = host.lived("again", "vm-9", now_ms - 90_000)
    assert host.run("rondo-push", again, "--remote-write", here) == 0
    late = host.lived("late", "vm-2", now_ms - 3 * 3_600_000, ticks=100)
    assert host.run("rondo-push", late, "--remote-write", here) == 0
    assert (late / "rejected_prometheus.jsonl").exists()

    # A clock ahead, and one far ahead.
    ahead = host.lived("ahead", "vm-7", time.time_ns() // 1_000_000 + 540_000)
    assert host.run("rondo-push", ahead, "--remote-write", here) == 0
    host.lived("far", "vm-8", now_ms + 7_200_000)

    # A cursor that was edited.
    (store / "cursor_prometheus.json").write_text("{\n")
    assert host.run("rondo-push", store, "--remote-write", here) == 65

    # A socket without a listener.
    left_over = tmp_path / "store.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(left_over))
    flags = ("--duration", "1s", "--linger", "1s", "--serial", "none")
    assert host.run("rondo-vmm", *flags, "--output", f"unix:{left_over}") == 75

    # tests/vmm/test_kvm.py has one that needs a user without access to /dev/kvm.
    others = {line for line in documented() if line.startswith("rondo-vmm: PATH may not be opened")}
    assert len(others) == 1
    assert len(documented()) == 10
    assert documented() - others - host.heard == set(), host.heard
