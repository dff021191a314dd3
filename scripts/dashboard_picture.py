#!/usr/bin/env python3
"""Draw docs/dashboard-vmm.png and docs/dashboard-fleet.png from real VMs in a real Prometheus.

It runs one VM of 45 s, with a neighbour that is restarted, then eighty that live for seconds; three minutes
in all. `--folder` is the folder of the pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devtools import ROOT
from devtools.grafana.dashboard_picture import draw_dashboards


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "docs", help="the folder of the pictures (default: docs)"
    )
    for path in draw_dashboards(parser.parse_args().folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
