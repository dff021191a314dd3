#!/usr/bin/env python3
"""Draw docs/page-light.png and docs/page-dark.png: rondo-serve's page of a made-up host, in Chromium.

    scripts/page_picture.py [FOLDER]

The first shows the host, the second one of its VMs. The host is that of docs/top.svg, with ten minutes of
builds that come and go, so the pictures are the same each time, except for the free disk space.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devtools import ROOT
from devtools.pictures.page import draw


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs", metavar="FOLDER")
    draw(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
