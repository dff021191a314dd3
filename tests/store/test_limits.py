"""The commands under a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess
from functools import partial
from pathlib import Path

from rondo_tools.store.format.layout import JOURNALS
from rondo_tools.store.reader import Store
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S
from tests.support.store.store_host import PROGRAM, data
from tests.support.store.stream_model import check, ticks


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limited(path: Path, stream: bytes, size: int) -> subprocess.CompletedProcess[bytes]:
    """rondo-store with a file size limit of `size` bytes."""
    return subprocess.run(
        [*PROGRAM, str(path)], input=stream, capture_output=True, timeout=PATIENCE_S,
        preexec_fn=partial(limit_files, size),
    )  # fmt: skip


def stored(path: Path, stream: bytes, size: int) -> bytes:
    """Its messages, after success."""
    done = limited(path, stream, size)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_journal_ends_at_a_file_size_limit(path: Path, begin_ms: int, run: Run) -> None:
    """The next journal begins; a journal that cannot be rolled up waits for a process with a higher limit."""
    size, names = 4 << 20, tuple(f"vm-{number}" for number in range(24))
    messages = stored(path, b"".join(data(begin_ms, 1500, instance=name) for name in names), size)
    assert b"36000 ticks stored, 24 sessions; 0 late" in messages
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
    assert len(Store(path).sessions()) == 24


def test_a_limit_too_small_for_a_frame_is_refused(path: Path, begin_ms: int) -> None:
    done = limited(path, data(begin_ms, 10), 10_000)
    assert done.returncode == 69
    assert b"files may have only 9.8 KiB (ulimit -f), and need 4.0 MiB" in done.stderr
    assert not path.exists()
