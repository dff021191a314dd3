#!/usr/bin/env python3
"""The main job, end to end: one VM, the store, the push, a real Prometheus; then the evidence.

What it starts ends with it. It leaves one folder, .demo/ in the checkout, made anew each time, so
that the commands it prints at the end have something to show.
"""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from fetch import fetch
from prometheus import Labels, Prometheus
from receiver import Receiver

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rondo_tools.catalog import COUNTER  # noqa: E402
from rondo_tools.store.reader import Session, Store  # noqa: E402
from rondo_tools.units import format_size  # noqa: E402

INSTANCE = "demo-vm"
JOB = "rondo-vmm"


def say(text: str = "") -> None:
    print(text, flush=True)


def receiver() -> AbstractContextManager[Prometheus | Receiver]:
    """A real Prometheus; only where none can be had, our own receiver."""
    try:
        program = fetch("prometheus")
    except LookupError as exc:
        say(f"No Prometheus to be had, so a receiver of our own stands in for it ({exc})")
        return Receiver()
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    say(f"Receiver: {version.splitlines()[0]}")
    return Prometheus(program)


def pipeline(commands: list[list[str]]) -> list[int]:
    """Run commands joined by pipes, as the shell would; returns their exit statuses."""
    say("\n$ " + " |\n    ".join(shlex.join(command) for command in commands) + "\n")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            process = subprocess.Popen(
                [sys.executable, ROOT / "bin" / command[0], *command[1:]],
                cwd=ROOT,
                stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                stdout=None if last else subprocess.PIPE,
            )
            if processes:
                stream = processes[-1].stdout
                assert stream is not None
                stream.close()  # the next process has it now
            processes.append(process)
        return [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise


def show(*command: str) -> None:
    """Run one of the commands, and show what it says as it stands."""
    say(f"\n$ {shlex.join(command)}")
    subprocess.run([sys.executable, ROOT / "bin" / command[0], *command[1:]], cwd=ROOT, check=True)


def evidence(session: Session, held: dict[Labels, list[tuple[int, str]]]) -> bool:
    """Compare tier 0 with the receiver, value for value, and print a line for each series."""
    end = session.end
    lived_ms = (end.t_ms if end else 0) - session.start_ms
    # A tick stands for the second it ends; the last one may fall into a second that had one.
    seconds = max(1, (session.start_ms + lived_ms) // 1000 - session.start_ms // 1000)
    rows = session.rows()
    reason = end.reason if end else "no end"
    say(f"\nThe VM lived {lived_ms / 1000:.3f} s ({reason}): {seconds} ticks to expect.")
    say(f"\n{'series':44} {'in store':>8} {'received':>8}  {'equal':5}  last value")
    whole = True
    for number, series in enumerate(session.header.series):
        labels = {"__name__": series.name, "job": JOB, "instance": session.instance}
        labels |= dict(session.header.labels) | dict(series.labels)
        received = {t: float(value) for t, value in held.get(tuple(sorted(labels.items())), [])}
        stored = dict(zip(rows.t_ms.tolist(), rows.values[:, number].tolist(), strict=True))
        present = {t: value for t, value in stored.items() if not math.isnan(value)}
        equal = received == present and len(stored) == seconds
        whole &= equal
        kind = "" if series.kind == COUNTER else f"  ({len(stored) - len(present)} x no value)"
        last = list(present.values())[-1] if present else math.nan
        say(
            f"{series!s:44} {len(stored):8} {len(received):8}  {'yes' if equal else 'NO':5}  {last:,.0f}"
            + (kind if len(stored) > len(present) else "")
        )
    return whole


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
        statuses = pipeline([vmm, ["rondo-store", metrics], push])
        if any(statuses):
            say(f"\nThe pipeline ended with {statuses}.")
            return 1
        (session,) = Store(ROOT / metrics).sessions()
        whole = evidence(session, running.samples(f'{{instance="{INSTANCE}"}}'))
        say(f"\nOn disk: {format_size(session.bytes_on_disk())} for all three tiers.")
        say("A second push has nothing left to send:")
        show("rondo-push", metrics, "--remote-write", running.write_url, "--verbose")
    # Idle exits are few beside those of I/O: a plot of their own shows the second phase.
    for selector, height in (("vcpu_exits_total", 18), ('vcpu_exits_total{reason="hlt"}', 11)):
        size = ["--height", str(height), "--width", str(columns())]
        show("rondo-query", metrics, "plot", selector, "--rate", *size)
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
