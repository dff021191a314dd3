#!/usr/bin/env python3
"""Put real programs into .tools/ of the checkout: no root, no installation, no service started.

    scripts/fetch.py prometheus rrdtool        prints the path of each, one a line
    scripts/fetch.py --unpack python3-pip-whl  prints the folder into which that package is unpacked
    scripts/fetch.py --tests                   the programs of `make test`, listed with sizes first

Each comes unpacked from the distribution's package. If packages cannot be downloaded, or the program is
installed already, the one on PATH is used. Without either it prints an error, and the exit status is 69.
Needs only Python.
"""

from __future__ import annotations

import subprocess
import sys

from devtools.programs import PROGRAMS, fetch, fetch_for_tests, folder, reason_of

EX_USAGE, EX_UNAVAILABLE = 64, 69


def main(arguments: list[str]) -> int:
    if arguments == ["--tests"]:
        fetch_for_tests()
        return 0
    unpacking = arguments[:1] == ["--unpack"]
    names = arguments[1:] if unpacking else arguments
    unknown = [name for name in names if not unpacking and name not in PROGRAMS]
    if not names or unknown:
        print(
            f"usage: fetch.py NAME... | --unpack PACKAGE... | --tests   known: {', '.join(PROGRAMS)}",
            file=sys.stderr,
        )
        return EX_USAGE
    for name in names:
        try:
            print(folder(name) if unpacking else fetch(name))
        except (LookupError, OSError, subprocess.SubprocessError) as exc:
            print(f"fetch.py: {reason_of(exc)}", file=sys.stderr)
            return EX_UNAVAILABLE
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
