"""Starts rondo-push many times, quickly: reads a JSON line, forks, and reports how the child ended.

    {"argv": [...], "die": ["before the send", 2]}     killed by SIGKILL at that moment, the second time
    {"argv": [...], "kill_after_s": 0.01}              killed by SIGKILL from outside

Each child is a separate process with a fresh cursor, transport and clock; only the imports are shared.
The answer is a JSON line: the child's exit status, negative for a signal, and its standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import NoReturn

from rondo_tools.push import cli, pusher
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.encoding import V1
from rondo_tools.push.http.transport import Transport
from rondo_tools.push.model import Answer

MOMENTS = ("before the send", "after the send", "before the save", "during the save", "after the save")


def die_at(moment: str, count: int) -> None:
    """Make this process kill itself at the count-th such moment."""
    seen = dict.fromkeys(MOMENTS, 0)
    send, save = Transport.send, Cursor.save

    def reached(name: str) -> None:
        seen[name] += 1
        if name == moment and seen[name] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def sending(self: Transport, body: bytes, protocol: str = V1) -> Answer:
        reached("before the send")
        answer = send(self, body, protocol)
        reached("after the send")
        return answer

    def saving(self: Cursor) -> None:
        reached("before the save")
        save(self)
        reached("after the save")

    def syncing(fd: int) -> None:
        if moment == "during the save" and seen[moment] == count - 1:
            try:
                os.write(fd, b"{")  # the content of the temporary file must not matter
            except OSError:
                pass  # this syncs the folder
        reached("during the save")

    Transport.send, Cursor.save, os.fsync = sending, saving, syncing  # type: ignore[assignment,method-assign]  # for good


def child(argv: list[str], die: tuple[str, int] | None) -> NoReturn:
    status = 70
    try:
        if die:
            die_at(*die)
        status = cli.main(argv)
    except SystemExit as exc:
        status = int(exc.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    # A hundred schedules have no time for pauses; without power cuts they need no syncs.
    pusher.BACKOFF_S = 0.001
    os.fsync = lambda fd: None
    for line in sys.stdin:
        order = json.loads(line)
        stderr_fd = os.memfd_create("stderr")
        pid = os.fork()
        if pid == 0:
            os.dup2(stderr_fd, 2)
            child(order["argv"], order.get("die"))
        if "kill_after_s" in order:
            time.sleep(order["kill_after_s"])
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still the child's
        _, status = os.waitpid(pid, 0)
        with open(stderr_fd, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  (a descriptor)
            file.seek(0)
            answer = {"status": os.waitstatus_to_exitcode(status), "log": file.read()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
