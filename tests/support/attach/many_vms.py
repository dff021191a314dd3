"""Forks COUNT processes, each with a VM, a vCPU that makes TIMES exits, and a life of LIFE_S seconds.

many_vms.py COUNT TIMES LIFE_S PAUSE_S
"""

from __future__ import annotations

import os
import sys
import time

from tests.support.attach.small_guest import Guest


def main() -> None:
    count, times = map(int, sys.argv[1:3])
    life_s, pause_s = map(float, sys.argv[3:5])
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            guest = Guest()
            guest.run(times)
            time.sleep(life_s)
            os._exit(0)
        children.append(pid)
        time.sleep(pause_s)
    print(*children, flush=True)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)


if __name__ == "__main__":
    main()
