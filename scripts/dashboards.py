#!/usr/bin/env python3
"""Make deploy/k8s/ from deploy/grafana/ and deploy/rules/; with --check, only compare.

A dashboard becomes a ConfigMap with its unchanged JSON, and a GrafanaDashboard that points to it; the rules
become a PrometheusRule. The manifests contain their sources verbatim, so the diff of a manifest reads like
that of its source.
"""

from __future__ import annotations

import sys

from devtools.grafana.manifests import drifted, write


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        write()
        return 0
    found = drifted()
    for path in found:
        print(f"{path} does not match its source: run make dashboards")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
