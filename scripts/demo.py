#!/usr/bin/env python3
"""The main job, end to end: one VM, the store, the push, a real Prometheus; then the evidence.

What it starts ends with it. It leaves one folder, .demo/ in the checkout, made anew each time, so
that the commands it prints at the end have something to show.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from devtools import ROOT
from devtools.evidence import evidence
from devtools.pipeline import pipeline, receiver, say, show
from rondo_tools.store.reader import Store
from rondo_tools.units import format_size

INSTANCE = "demo-vm"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--duration", type=int, default=15, metavar="SECONDS", help="of the VM (default: 15)")
    parser.add_argument("--accel", default="auto", help="as for rondo-vmm (default: auto)")
    arguments = parser.parse_args()
    began = time.monotonic()
    folder = Path(".demo")
    shutil.rmtree(ROOT / folder, ignore_errors=True)
    metrics = str(folder / "vmm_metrics")
    with receiver() as running:
        vmm = ["rondo-vmm", "--instance", INSTANCE, "--duration", f"{arguments.duration}s"]
        vmm += ["--accel", arguments.accel] if arguments.accel != "auto" else []
        push = ["rondo-push", "--remote-write", running.write_url]
        statuses = pipeline(vmm, ["rondo-store", metrics], push)
        if any(statuses):
            say(f"\nThe pipeline ended with {statuses}.")
            return 1
        (session,) = Store(ROOT / metrics).sessions()
        whole = evidence(session, running.samples(f'{{instance="{INSTANCE}"}}'))
        size = sum(file.stat().st_blocks * 512 for file in (ROOT / metrics).rglob("*"))
        say(f"\nOn disk: {format_size(size)} for the whole store.")
        say("A second push has nothing left to send:")
        show("rondo-push", metrics, "--remote-write", running.write_url, "--verbose")
    # Idle exits are few beside those of I/O: a plot of their own shows the second phase.
    for selector, height in (("vcpu_exits_total", 18), ('vcpu_exits_total{reason="hlt"}', 11)):
        area = ["--height", str(height), "--width", str(columns())]
        show("rondo-query", metrics, "plot", selector, "--rate", *area)
    query = f".venv/bin/rondo-query {metrics}"
    say(
        f"""
Look further:
  {query} list
  {query} read 'vcpu_exits_total{{reason="io"}}' --rate
  {query} plot blk_request_duration_ns
  .venv/bin/rondo-vmm --duration 5s --text"""
    )
    say(
        f"\n{'All of it arrived, to the last bit' if whole else 'SOMETHING IS MISSING'}; "
        f"{time.monotonic() - began:.0f} s in all."
    )
    return 0 if whole else 1


def columns() -> int:
    return min(110, shutil.get_terminal_size((100, 24)).columns)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
