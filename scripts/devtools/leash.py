#!/usr/bin/env python3
"""Run a command that does not outlive whoever asked for it from afar.

    ssh HOST scripts/devtools/leash.py COMMAND...

When standard input ends, because somebody over there pressed Ctrl-C or the connection is gone, the
command gets what Ctrl-C would give it: SIGINT to its process group. If it is still there a minute later,
SIGTERM; then SIGKILL. Exit status: the command's, or 128 and the number of the signal that ended it.
Needs nothing but Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PATIENCE_S = 60.0  # for what is left to be stored and delivered
EX_USAGE = 64


def main(command: list[str]) -> int:
    if not command:
        print("usage: leash.py COMMAND...", file=sys.stderr)
        return EX_USAGE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    over = threading.Event()
    pulling = threading.Thread(target=pull, args=(process, over), daemon=True)
    pulling.start()
    status = process.wait()
    over.set()
    return status if status >= 0 else 128 - status


def pull(process: subprocess.Popen[bytes], over: threading.Event) -> None:
    """End the command, ever more firmly, once standard input has ended."""
    while os.read(0, 4096):
        pass
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        if over.wait(PATIENCE_S):
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
