"""Writing and rolling up through the commands under a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from needs import PATIENCE_S
from store_host import PROGRAM, data
from stream_model import check, ticks

from rondo_tools.store.format.layout import JOURNALS
from rondo_tools.store.reader import Store

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def stored(path: Path, stream: bytes, size: int) -> bytes:
    """What rondo-store says that may write no file of more than `size` bytes, and ends well."""
    done = subprocess.run(
        [*PROGRAM, str(path)], input=stream, capture_output=True, timeout=PATIENCE_S,
        preexec_fn=partial(limit_files, size),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_limit_on_the_size_of_files(path: Path, begin_ms: int, run: Run) -> None:
    """A journal ends there and another begins; what could not be rolled up waits for who may."""
    size, names = 300_000, ("vm-1", "vm-2", "vm-3")
    said = stored(path, b"".join(data(begin_ms, 1500, instance=name) for name in names), size)
    assert b"4500 ticks stored, 3 sessions; 0 late" in said
    sizes = [one.stat().st_size for one in (path / JOURNALS).iterdir()]
    assert len(sizes) > 1
    assert max(sizes) <= size
    for _ in range(2):
        for session in Store(path).sessions():
            check(session, ticks(1500, begin_ms))
            assert session.end is not None
        done = run("rondo-store", path, stdin=None, input=b"")
        assert done.returncode == 0
        assert b"not rolled up" not in done.stderr
    assert len(Store(path).sessions()) == 3
