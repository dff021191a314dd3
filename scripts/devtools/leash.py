#!/usr/bin/env python3
"""Run a command through ssh that does not outlive the connection.

    ssh HOST scripts/devtools/leash.py COMMAND...

When standard input ends, because of a Ctrl-C on the other side or a lost connection, the command's process
group gets SIGINT, as from Ctrl-C. A minute later it gets SIGTERM; then SIGKILL. Exit status: the command's,
or 128 plus the number of the signal that ended it. Needs only Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PATIENCE_S = 60.0  # time to store and deliver the rest
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
    """End the command after the end of standard input, with stronger signals each time."""
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
