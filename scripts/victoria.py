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

from prometheus import free_port


@contextmanager
def victoria(program: Path, folder: Path, *flags: str) -> Iterator[str]:
    """Runs it, empty, on loopback; yields its address."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [program, f"-storageDataPath={folder / 'data'}", f"-httpListenAddr={url[7:]}", *flags]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                said = (folder / "log").read_text(errors="replace")[-2000:]
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()
