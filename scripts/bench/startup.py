"""The cost of starting each tool without work: --version and --help."""

from __future__ import annotations

import argparse
import sys

from bench.measure import command_cpu_s, least, program
from bench.report import Peer, Report, run_part

TOOLS = ("rondo-vmm", "rondo-attach", "rondo-feed", "rondo-store", "rondo-push", "rondo-query")
ROUNDS = 7
BAR_S = 0.15


def main(report: Report, arguments: list[str]) -> None:
    argparse.ArgumentParser(prog="bench.py startup", description=__doc__).parse_args(arguments)
    bare = Peer("python3 -c pass", cpu_s([sys.executable, "-c", "pass"]))
    for tool in TOOLS:
        for flag in ("--version", "--help"):
            report.row(f"{tool} {flag}", cpu_s(program(tool, flag)), "s of CPU", peer=bare, at_most=BAR_S)


def cpu_s(command: list[str]) -> float:
    return least(ROUNDS, lambda: command_cpu_s(command))


if __name__ == "__main__":
    sys.exit(run_part(main))
