#!/usr/bin/env python3
"""The laboratory: a Linux with a KVM that boots Linux, on a machine that has none.

    scripts/lab.py run 'rondo-vmm --duration 3s --text'     run a shell command in it
    scripts/lab.py run --in FOLDER --out FOLDER COMMAND     FOLDER's files are in /in; /out is copied back
    scripts/lab.py shell                                    a shell in it

QEMU emulates an AMD processor with virtualization in software. It runs a stock kernel with KVM, and a root of
Python, busybox, a copy of this checkout (in /rondo, where the command starts, its commands on PATH), and
build/guest. 10.0.2.2 is this machine's loopback. Everything is in memory: each run starts fresh. Exit status:
the command's; 69 if the laboratory cannot be built; 70 if it crashed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from devtools.lab import LabError, folder_of, run, shell

EX_UNAVAILABLE = 69


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("shell", help="an interactive shell")
    running = commands.add_parser("run", help="run a shell command")
    running.add_argument("--in", dest="source", type=Path, metavar="FOLDER", help="copy its files to /in")
    running.add_argument("--out", type=Path, metavar="FOLDER", help="copy the files of /out to it")
    running.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="(default: 300)")
    running.add_argument("command", nargs="+", help="a shell command; several words are joined by spaces")
    arguments = parser.parse_args()
    try:
        if platform.machine() != "x86_64" or sys.platform != "linux":
            raise LabError("the laboratory needs Linux on x86-64", EX_UNAVAILABLE)
        if arguments.do == "shell":
            return shell()
        result = run(
            " ".join(arguments.command),
            folder_of(arguments.source) if arguments.source else None,
            timeout_s=arguments.timeout,
            stdout=lambda data: os.write(1, data),
            stderr=lambda data: os.write(2, data),
        )
    except LookupError as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return EX_UNAVAILABLE
    except LabError as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return exc.status
    if arguments.out:
        for name, data in result.out.items():
            path = arguments.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return result.status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
