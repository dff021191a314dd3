"""A real VictoriaMetrics on a free loopback port, for the tests.

It lives in a folder of the caller's and ends with the `with` block, also when that fails.
"""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.receivers.prometheus import PORT_TAKEN, free_port

START_S = 300.0  # bounds a hang; it takes a second


@contextmanager
def victoria(program: Path, folder: Path, *flags: str) -> Iterator[str]:
    """Runs it, empty, on loopback; yields its address."""
    log = folder / "log"
    while True:
        url = f"http://127.0.0.1:{free_port()}"
        command = [str(program), f"-storageDataPath={folder / 'data'}", f"-httpListenAddr={url[7:]}", *flags]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            if _answers(process, f"{url}/health"):
                yield url
                return
            said = log.read_text(errors="replace")[-2000:]
            if PORT_TAKEN not in said:
                raise RuntimeError(f"VictoriaMetrics does not get ready: {said}")
        finally:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until it answers, or has ended."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    return False
