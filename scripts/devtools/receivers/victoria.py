"""A real VictoriaMetrics, and a real vmagent, on free loopback ports, for the tests."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path

from devtools.receivers.prometheus import Labels, Server


class VictoriaMetrics(Server):
    """A VictoriaMetrics with default settings."""

    name = "VictoriaMetrics"
    ready = "/health"

    def arguments(self) -> list[str]:
        return [f"-storageDataPath={self.folder / 'data'}", f"-httpListenAddr=127.0.0.1:{self.port}"]

    def flush(self) -> None:
        """Make all accepted samples visible to queries."""
        with urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=300):
            pass

    def samples(self, selector: str, at_s: float | None = None) -> dict[Labels, list[tuple[int, str]]]:
        """Every sample up to `at_s` (default: now), with duplicates, in the form of `Prometheus.samples`."""
        self.flush()
        until = {} if at_s is None else {"end": f"{at_s:.3f}"}
        asked = urllib.parse.urlencode({"match[]": selector} | until)
        found = {}
        with urllib.request.urlopen(f"{self.url}/api/v1/export?{asked}", timeout=300) as answer:
            for line in answer:
                series = json.loads(line, parse_float=str, parse_constant=lambda _: None)
                pairs = zip(series["timestamps"], series["values"], strict=True)
                labels = tuple(sorted(series["metric"].items()))
                # A stale marker is null, or NaN in old versions.
                found[labels] = sorted((t_ms, str(value)) for t_ms, value in pairs if value is not None)
        return found

    def counted(self, metric: str) -> int:
        """The value of one of its own counters."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=300) as answer:
            lines = answer.read().decode().splitlines()
        return sum(int(line.split()[-1]) for line in lines if line.startswith(metric))


class VmAgent(Server):
    """Forwards accepted samples to `target`; `stop` returns after all are forwarded."""

    name = "vmagent"
    ready = "/health"

    def __init__(self, program: Path, target: str, *flags: str) -> None:
        super().__init__(program, *flags)
        self._target = target

    def arguments(self) -> list[str]:
        return [
            f"-remoteWrite.url={self._target}",
            f"-remoteWrite.tmpDataPath={self.folder / 'data'}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
        ]
