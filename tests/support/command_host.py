"""Runs rondo's commands as forks of one process, for `commands.py`.

Strategy: the interpreter and its imports are most of what a short command costs, so the children share them.
Each child is a process of its own. It has the arguments, environment, folder and standard streams of its
order, and runs the file in bin/. Only the environment that Python itself reads as it starts is the host's.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pickle
import pkgutil
import runpy
import signal
import socket
import sys
import time
from typing import NamedTuple

PACKAGES = ("query", "store", "push")
MAX_ORDER = 1 << 17


class Order(NamedTuple):
    argv: list[bytes]  # the file in bin/ first
    env: dict[bytes, bytes]
    cwd: bytes


def import_all() -> None:
    for name in PACKAGES:
        package = importlib.import_module(f"rondo_tools.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    gc.freeze()  # a child that collects garbage does not touch, and so copy, all of it


def serve(peer: socket.socket) -> tuple[Order, list[int]] | None:
    """Carry out orders. Returns in each child, with its order and its streams, and None after the last."""
    while True:
        data, streams, _, _ = socket.recv_fds(peer, MAX_ORDER, 3)
        if not data:
            return None
        pid = os.fork()
        if pid == 0:
            peer.close()
            return pickle.loads(data), streams
        for fd in streams:
            os.close(fd)
        peer.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        peer.send(str(os.waitstatus_to_exitcode(status)).encode())


def become(order: Order, streams: list[int]) -> None:
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order.cwd)
    os.environb.clear()
    os.environb.update(order.env)
    time.tzset()
    sys.argv = [os.fsdecode(word) for word in order.argv]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exc:
        if isinstance(exc.code, int):  # to take the interpreter down is half of what is left to do
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exc.code)
        raise


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the tests, which end this
    import_all()
    if found := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(*found)


if __name__ == "__main__":
    main()
