#!/usr/bin/env python3
"""Measure rondo beside its peers, in one run: every figure that the docs quote comes from here.

scripts/bench.py [PART ...]      all of them by default: vmm store lives serve stall flat race push wire
                                 backlog dashboards
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
PARTS = ("vmm", "store", "lives", "serve", "stall", "flat", "race", "push", "wire", "backlog", "dashboards")


def main(parts: list[str]) -> int:
    unknown = set(parts) - set(PARTS)
    if unknown:
        print(
            f"bench.py: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}",
            file=sys.stderr,
        )
        return 64
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs, {cpu()}")
    statuses = []
    for part in parts or PARTS:
        print(f"\n== {part}", flush=True)
        statuses.append(
            subprocess.run([sys.executable, SCRIPTS / f"bench_{part}.py"], check=False).returncode
        )
    return max(statuses)


def cpu() -> str:
    """What the processor calls itself."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
