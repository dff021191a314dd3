"""Runs and shows the commands of the checkout like a shell: joined by pipes, or alone.

Strategy: each process has a process group of its own, so Ctrl-C comes only here. The first one goes to the
head of the pipe, the VM; the others end at the end of their input, after everything is delivered. A second
one goes to all of them.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from devtools import ROOT
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus
from devtools.receivers.receiver import StandIn


def say(text: str = "") -> None:
    print(text, flush=True)


def receiver() -> AbstractContextManager[Prometheus | StandIn]:
    """A real Prometheus, or our own receiver if none is available."""
    try:
        program = fetch("prometheus")
    except LookupError as exc:
        say(f"No Prometheus is available, so a receiver of our own replaces it ({exc})")
        return StandIn()
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    say(f"Receiver: {version.splitlines()[0]}")
    return Prometheus(program)


def pipeline(*commands: list[str]) -> list[int]:
    """Run commands joined by pipes, like the shell; returns their exit statuses."""
    say("\n$ " + " |\n    ".join(shlex.join(command) for command in commands) + "\n")
    processes: list[subprocess.Popen[bytes]] = []
    with _relayed_to(processes):
        try:
            for number, command in enumerate(commands):
                last = number == len(commands) - 1
                process = subprocess.Popen(
                    [sys.executable, ROOT / "bin" / command[0], *command[1:]],
                    cwd=ROOT,
                    stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                    stdout=None if last else subprocess.PIPE,
                    process_group=0,
                )
                if processes:
                    stream = processes[-1].stdout
                    assert stream is not None
                    stream.close()  # the next process has inherited it
                processes.append(process)
            return [process.wait() for process in processes]
        except BaseException:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            raise


@contextmanager
def _relayed_to(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Forward a signal to the first of `processes`, a second one to all."""
    asked = False

    def end(_number: int, _frame: object) -> None:
        nonlocal asked
        for process in processes if asked else processes[:1]:
            process.send_signal(signal.SIGINT)
        asked = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(*command: str) -> None:
    """Run one of the commands, and show its output."""
    say(f"\n$ {shlex.join(command)}")
    subprocess.run([sys.executable, ROOT / "bin" / command[0], *command[1:]], cwd=ROOT, check=True)
