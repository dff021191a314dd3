"""Runs a command of rondo's to its end, as a fork of a process that has its imports where that is possible.

Strategy: Python, numpy and rondo's modules take 150 ms of CPU to start, and a command then takes 10. So one
`command_host.py` stays for each environment that Python reads as it starts, such as a locale, and a command
is a fork of it: 25 ms. Other tools, standard streams that are no pipes, and options that act between fork and
exec have a process of their own.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Unpack

from tests.support.command_host import MAX_ORDER, Order
from tests.support.fixtures import RunOptions
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
FORKED = ("rondo-query", "rondo-store", "rondo-push")
# Variables that Python reads as it starts; and those that change which code it starts with.
AT_THE_START = ("PYTHON", "LC_", "LANG", "OPENBLAS_")
ELSEWHERE = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD")

Done = subprocess.CompletedProcess[bytes]


class Host:
    """A command_host.py with this environment, which runs one command at a time."""

    def __init__(self, env: dict[str, str]) -> None:
        self._peer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # -P: what lies beside that file is not to be imported.
                [sys.executable, "-P", ROOT / "tests" / "support" / "command_host.py", str(theirs.fileno())],
                env={**env, "PYTHONPATH": str(ROOT)},
                # Pipes, as the streams of a command are: what is made for them would seek in a file.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._peer.close()
        _, stderr_text = self._process.communicate(timeout=PATIENCE_S)
        assert not stderr_text, stderr_text.decode()

    def run(self, order: bytes, argv: list[str], given: bytes | None) -> Done:
        """Run a command; `given` is its standard input, None for /dev/null."""
        err = os.memfd_create("stderr")
        out, theirs = os.pipe()
        stdin, ours = os.pipe() if given is not None else (os.open(os.devnull, os.O_RDONLY), -1)
        try:
            socket.send_fds(self._peer, [order], [stdin, theirs, err])
        finally:
            os.close(stdin)
            os.close(theirs)
        pid = int(self._peer.recv(99))
        writer = threading.Thread(target=write_all, args=(ours, given or b""))
        writer.start()
        try:
            found = read_all(out, time.monotonic() + PATIENCE_S)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)  # its status is not read yet
            raise subprocess.TimeoutExpired(argv, PATIENCE_S) from None
        finally:
            status = int(self._peer.recv(99))
            os.close(out)
            writer.join()
            stderr_text = os.pread(err, os.fstat(err).st_size, 0)
            os.close(err)
        return subprocess.CompletedProcess(argv, status, found, stderr_text)


def write_all(fd: int, data: bytes) -> None:
    if fd < 0:
        return
    piece = memoryview(data)
    with suppress(BrokenPipeError):
        while piece:
            piece = piece[os.write(fd, piece) :]
    os.close(fd)


def read_all(fd: int, deadline: float) -> bytes:
    found = b""
    while True:
        if not select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError
        piece = os.read(fd, 1 << 16)
        if not piece:
            return found
        found += piece


def mounts() -> str:
    """The mount namespace of this thread."""
    return str(Path("/proc/thread-self/ns/mnt").readlink())


class Commands:
    """Runs commands, and owns the hosts that it starts for them."""

    def __init__(self) -> None:
        self._hosts: dict[frozenset[tuple[str, str]], Host] = {}
        self._busy = threading.Lock()
        self._mounts = mounts()

    def __enter__(self) -> Commands:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for host in self._hosts.values():
            host.close()

    def run(self, *command: str | bytes | Path, **options: Unpack[RunOptions]) -> Done:
        """As subprocess.run, of a file in bin/; with captured output, and nothing on standard input."""
        tool, *words = map(os.fsdecode, command)
        argv = [str(ROOT / "bin" / tool), *words]
        settings: RunOptions = {"capture_output": True, "stdin": subprocess.DEVNULL, **options}
        env = dict(options.get("env", os.environ))
        order = pickle.dumps(
            Order(
                [os.fsencode(word) for word in argv],
                {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
                os.fsencode(options.get("cwd", Path.cwd())),
            )
        )
        will_do = (
            tool in FORKED
            and settings.keys() <= {"capture_output", "stdin", "env", "cwd", "input"}
            and settings["capture_output"]
            and (settings["stdin"] == subprocess.DEVNULL or "input" in options)
            and not any(env.get(name) != os.environ.get(name) for name in ELSEWHERE)
            and len(order) < MAX_ORDER
            and mounts() == self._mounts  # a test may have file systems of its own, which no host sees
        )
        if not will_do or not self._busy.acquire(blocking=False):
            return subprocess.run([sys.executable, *argv], timeout=PATIENCE_S, **settings)
        try:
            key = frozenset(one for one in env.items() if one[0].startswith(AT_THE_START))
            if key not in self._hosts:
                self._hosts[key] = Host(env)
            return self._hosts[key].run(order, argv, options.get("input"))
        finally:
            self._busy.release()
