#!/usr/bin/env python3
"""Measure rondo beside its peers, in one run: every figure that the docs quote comes from here.

    scripts/bench.py [--json FILE] [PART ...]      all parts by default
    scripts/bench.py [--json FILE] PART --help     the options of a part, which stand behind its name
    scripts/bench.py --docs                        make the figures of the docs anew from docs/benchmarks.json

--json puts the results into FILE; parts that are in it and were not run now stay. The status is 1 if a
bar was missed, or a part failed.
"""

from __future__ import annotations

import sys

from bench.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
