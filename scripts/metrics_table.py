#!/usr/bin/env python3
"""Write the table of docs/metrics.md from the catalogue; with --check, only compare."""

from __future__ import annotations

import sys

from devtools import ROOT
from devtools.metrics_table import with_table


def main() -> int:
    path = ROOT / "docs" / "metrics.md"
    text = path.read_text()
    wanted = with_table(text)
    if "--check" in sys.argv[1:]:
        return int(text != wanted)
    path.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
