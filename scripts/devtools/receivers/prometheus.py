"""A real Prometheus on a free loopback port, for the demo, the tests and the benchmarks.

It uses a temporary folder, and ends with the `with` block, also if that fails.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_S = 300.0  # for a program to accept requests

Labels = tuple[tuple[str, str], ...]


class Server:
    """A program that listens on a free loopback port, with its data in a temporary folder.

    `url` is its address, `write_url` its remote-write receiver.
    """

    name: str
    ready: str  # the path that answers 200 once the program accepts requests

    def __init__(self, program: Path, *flags: str) -> None:
        self._program = program
        self._flags = flags

    def arguments(self) -> list[str]:
        """The program's flags for its port and its data."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="rondo-receiver-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        try:
            while not self._starts_at(free_port()):
                pass
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def _starts_at(self, port: int) -> bool:
        """Start it; False if another process took the port first."""
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.write_url = f"{self.url}/api/v1/write"
        try:
            self.start()
        except RuntimeError:
            if PORT_TAKEN not in self.log():
                raise
            (self.folder / "log").unlink()
            return False
        return True

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, or restart it after `stop`, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *self.arguments(), *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own process group: Ctrl-C goes to the demo only, which ends it later.
                process_group=0,
            )
        deadline = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once: {self.log()}")
            try:
                with urllib.request.urlopen(self.url + self.ready, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"{self.name} does not get ready: {self.log()}") from None
                time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and keep its data."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
            try:
                self.process.wait(300)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


class Prometheus(Server):
    """A Prometheus with default settings, or those in `config`."""

    name = "Prometheus"
    ready = "/-/ready"

    def __init__(self, program: Path, *flags: str, config: str = "") -> None:
        super().__init__(program, *flags)
        self._config = config

    def arguments(self) -> list[str]:
        config = self.folder / "prometheus.yml"
        config.write_text(self._config)
        return [
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
            "--log.level=warn",
        ]

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The `result` of an instant query."""
        parameters = {"query": expression} | ({"time": f"{at_s:.3f}"} if at_s is not None else {})
        data = urllib.parse.urlencode(parameters).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/query", data, timeout=300) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def samples(self, selector: str, at_s: float | None = None) -> dict[Labels, list[tuple[int, str]]]:
        """Every sample of the 10 days up to `at_s` (default: an hour from now), as stored.

        Keys are all labels, `__name__` among them, sorted. Stale markers are not shown by Prometheus.
        """
        at = time.time() + 3600 if at_s is None else at_s
        return {
            tuple(sorted(series["metric"].items())): [
                (round(float(at) * 1000), value) for at, value in series["values"]
            ]
            for series in self.query(f"{selector}[10d]", at)
        }


PORT_TAKEN = "address already in use"
"""A Go server's message if another process took the port first."""


def free_port() -> int:
    """A free loopback port.

    It is below the system's range for outgoing connections, so none of these takes it meanwhile, and random,
    so that another process hardly chooses the same.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_outgoing = int(limits.read_text().split()[0]) if limits.exists() else 32_768
    while True:
        port = random.randrange(10_000, max(first_outgoing, 20_000))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
