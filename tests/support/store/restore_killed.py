"""Restores a dump in one process after the other, each killed at a later step than the one before.

    restore_killed.py DUMP FOLDER NOW_MS STRIDE

A step is a call that changes the disk. Each store is FOLDER/N, where N is the step before which SIGKILL
killed the process. Stops after the first process that was not killed. There is no power cut, so nothing waits
for the disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from rondo_tools.store.restore import restore

STEPS = "write", "fsync", "fdatasync", "open", "unlink", "mkdir", "rename", "replace", "rmdir"


def die_before(step: int) -> None:
    """Make this process kill itself before the step of that number."""
    done, fsync, fdatasync = 0, os.fsync, os.fdatasync

    def counted(call: Any) -> Any:
        def instead(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return None if call in (fsync, fdatasync) else call(*args, **kwargs)

        return instead

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def child(dump: Path, store: Path, now_ms: int, step: int) -> NoReturn:
    status = 70
    try:
        with dump.open("rb") as file:
            die_before(step)
            restore(str(store), file.read, now_ms=lambda: now_ms)
        status = 0
    finally:
        os._exit(status)


def main(dump: str, folder: str, now_ms: str, stride: str) -> int:
    before = Path(folder, "before")
    for step in range(0, 10_000, int(stride)):
        store = Path(folder, str(step))
        if before.exists():
            shutil.copytree(before, store)
        pid = os.fork()
        if pid == 0:
            child(Path(dump), store, int(now_ms), step)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return os.waitstatus_to_exitcode(status)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
