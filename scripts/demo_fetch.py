#!/usr/bin/env python3
"""Say how long the demo takes and what it fetches; then fetch its programs. Needs nothing but Python."""

import sys

from devtools.demo_programs import fetch_for_demo

if __name__ == "__main__":
    try:
        fetch_for_demo()
    except KeyboardInterrupt:
        sys.exit(130)
