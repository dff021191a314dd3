"""Starts rondo-store many times, quickly, and kills it: reads a JSON line, forks, feeds the child a
pipe, kills it with SIGKILL, and answers with its exit status.

    {"argv": ["DIR"], "input": "FILE", "at_once": 70000, "then": [140, 7], "ends": false, "pause_s": 0.002}

The child gets the first `at_once` bytes of the file, then pieces of the sizes in `then`; if the input
`ends` there, its pipe is closed. `pause_s` after that it is killed; with null it is not, and ends by itself.
Each child is a process of its own; only the imports are shared.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn, TypedDict

from rondo_tools.store import cli


def child(argv: list[str], stdin: int) -> NoReturn:
    status = 70
    try:
        os.dup2(stdin, 0)
        os.closerange(3, 64)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = cli.main(argv)
    finally:
        os._exit(status)


def feed(fd: int, data: bytes, at_once: int, then: list[int]) -> None:
    at = 0
    for size in (at_once, *then):
        piece = memoryview(data)[at : at + size]
        at += size
        while piece:
            piece = piece[os.write(fd, piece) :]


class Order(TypedDict):
    """A life to live, as a line of JSON says it."""

    argv: list[str]
    input: str
    at_once: int
    then: list[int]
    ends: bool
    pause_s: float | None


def live(order: Order, data: bytes) -> int:
    """One life; its exit status, negative for a signal."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(order["argv"], read)
    os.close(read)
    pause_s = order["pause_s"]
    try:
        feed(write, data, order["at_once"], order["then"])
        if order["ends"]:
            os.close(write)
            write = -1
        if pause_s is not None:
            time.sleep(pause_s)  # not to learn the time: to be killed at any moment
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still the child's
    finally:
        if write >= 0:
            os.close(write)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        print(live(order, Path(order["input"]).read_bytes()), flush=True)


if __name__ == "__main__":
    main()
