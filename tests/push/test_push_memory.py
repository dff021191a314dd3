"""The size of a request and the memory of rondo-push, for any labels of a producer."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import snappy

from devtools.http_server import Reply, http_server
from rondo_tools.catalog import Series
from tests.support.push.receivers import fill, header, ticks

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def push(store: Path, url: str, *flags: str) -> tuple[int, int]:
    """The exit status and the peak of the memory of a rondo-push, in MiB."""
    argv = [sys.executable, str(ROOT / "bin" / "rondo-push"), str(store), "--remote-write", url, *flags]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    return process.returncode, usage.ru_maxrss // 1024


@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
def test_labels_at_the_limits_of_the_stream(tmp_path: Path, protocol: str) -> None:
    """Two VMs of 4,000 series, each with 32 labels of 1,000 bytes: 256 MB of labels."""
    width, now_ms = 4000, time.time_ns() // 1_000_000 - 30_000
    series = tuple(Series(f"m{number}", (), "gauge", "", "") for number in range(width))
    labels = tuple((f"l{number:02d}", "v" * 1000) for number in range(32))
    for name in ("a", "b"):
        head = header(name, now_ms - 500, series)._replace(labels=labels)
        fill(tmp_path / "large", head, ticks((now_ms, [1.0] * width), (now_ms + 1000, [2.0] * width)))
    fill(tmp_path / "small", header("a", now_ms - 500), ticks((now_ms, [1.0, 2.0])))
    sizes: list[int] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        sizes.append(len(snappy.decompress(body)))
        return 204, {"X-Prometheus-Remote-Write-Samples-Written": "1000000"}, b""

    with http_server(answer) as url:
        flags = ("--no-health", "--protocol", protocol)
        status, plain_mib = push(tmp_path / "small", url, *flags)
        assert (status, len(sizes)) == (0, 1)
        status, large_mib = push(tmp_path / "large", url, *flags)
    assert status == 0
    assert max(sizes) < 4.1 * MIB
    assert large_mib < plain_mib + 150
