"""A host with a few real VMs on it, for the dashboards' test and picture: one store, one push.

    with Host(folder, prometheus.write_url) as host:
        host.start("vm-1", seconds=10)
        host.wait()

The store serves on a Unix socket in `folder`, the push is a daemon. The `with` block ends all of them, the
push last, so that everything is delivered.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from devtools import ROOT

PATIENCE_S = 300.0  # bounds a hang


class Host:
    """`push_s` is the time between two pushes."""

    def __init__(self, folder: Path, write_url: str, *, push_s: int = 2, tiers: str | None = None) -> None:
        self.store = folder / "vmm_metrics"
        self.socket = folder / "store.sock"
        self._log = folder / "log"
        self._tiers = [] if tiers is None else ["--tiers", tiers]
        self._push = [str(self.store), "--remote-write", write_url, "--interval", f"{push_s}s"]
        self._vms: list[subprocess.Popen[bytes]] = []
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Host:
        try:
            store = self._run("rondo-store", str(self.store), "--listen", f"unix:{self.socket}", *self._tiers)
            self._daemons.append(store)
            deadline = time.monotonic() + PATIENCE_S
            while not self.socket.exists():
                if store.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"rondo-store does not listen: {self.log_text()}")
                time.sleep(0.02)
            self._daemons.append(self._run("rondo-push", *self._push))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self, instance: str, seconds: int) -> subprocess.Popen[bytes]:
        """Start a VM with the built-in guest for `seconds`."""
        vm = self._run(
            "rondo-vmm", "--instance", instance, "--duration", f"{seconds}s",
            "--output", f"unix:{self.socket}", "--serial", "none",
        )  # fmt: skip
        self._vms.append(vm)
        return vm

    def wait(self, vm: subprocess.Popen[bytes]) -> None:
        """Wait until a VM has ended, and everything is stored."""
        if vm.wait(PATIENCE_S):
            raise RuntimeError(f"a VM ended with {vm.returncode}: {self.log_text()}")

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, ROOT / "bin" / name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                process_group=0,  # Ctrl-C goes to our caller only
            )

    def _end(self) -> None:
        """End the VMs, then the store, then the push; each may finish delivering."""
        for vm in self._vms:
            if vm.poll() is None:
                vm.send_signal(signal.SIGINT)
        for process in self._vms + self._daemons:
            if process in self._daemons:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
