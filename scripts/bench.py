#!/usr/bin/env python3
"""Measure rondo beside its peers in one run: the source of every figure in the docs.

    scripts/bench.py [--json FILE] [PART ...]      all parts by default
    scripts/bench.py [--json FILE] PART --help     the options of a part, which follow its name
    scripts/bench.py --docs                        update the figures of the docs from docs/benchmarks.json

--json writes the results into FILE, and keeps those of parts that were not run now. The status is 1 if a bar
was missed, or a part failed.
"""

from __future__ import annotations

import sys

from bench.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
