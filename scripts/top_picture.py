#!/usr/bin/env python3
"""Draw docs/top.svg: rondo-query top of a made-up host, in a terminal emulator.

    scripts/top_picture.py [FILE] [--size COLUMNSxLINES]

The host, and so the picture, is the same each time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devtools import ROOT
from devtools.pictures.top import draw


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "docs" / "top.svg", metavar="FILE")
    parser.add_argument("--size", default="120x30", metavar="COLUMNSxLINES")
    given = parser.parse_args()
    columns, lines = map(int, given.size.split("x"))
    draw(given.file, columns, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
