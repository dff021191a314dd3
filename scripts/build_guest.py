#!/usr/bin/env python3
"""Assemble the built-in guest: workload.S into workload.bin, with GNU as and ld.

    scripts/build_guest.py            write rondo_tools/vmm/guest/workload.bin
    scripts/build_guest.py --check    only compare; exit status 1 if the source gives other bytes

The addresses come from rondo_tools/vmm/layout.py. The file has neither paths nor times, so the same source
gives the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from devtools import ROOT
from devtools.guest.builtin import GUEST, assemble


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument(
        "--prefix", default="", help="a prefix of the tools' names, such as x86_64-linux-gnu-"
    )
    arguments = parser.parse_args()
    target = GUEST / "workload.bin"
    try:
        code = assemble(arguments.prefix)
    except FileNotFoundError as exc:
        print(f"build_guest: {exc.filename} is missing: install binutils for x86", file=sys.stderr)
        return 69
    except subprocess.CalledProcessError as exc:
        return int(exc.returncode)
    if arguments.check:
        if target.read_bytes() == code:
            print(f"{target.relative_to(ROOT)} matches its source ({len(code)} bytes)")
            return 0
        print(f"{target.relative_to(ROOT)} does not match its source: run scripts/build_guest.py")
        return 1
    target.write_bytes(code)
    print(f"{target.relative_to(ROOT)}: {len(code)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
