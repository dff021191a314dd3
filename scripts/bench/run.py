"""Runs the parts, keeps their results, and updates the figures of the docs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import flat, report, scale
from devtools import ROOT

RESULTS = ROOT / "docs" / "benchmarks.json"
PICTURES = {"flat": (flat.draw, "cost-of-a-tick.svg"), "scale": (scale.draw, "scale.svg")}
PARTS = (
    "startup", "vmm", "attach", "qemu", "feed", "intake", "store", "lives", "churn", "remembered", "history",
    "serve", "stall", "flat", "race", "push", "wire", "backlog", "top", "page", "remote_read", "dashboards",
    "scale",
)  # fmt: skip
EX_USAGE, EX_DATA = 64, 65


def main(arguments: list[str], description: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("parts", nargs=argparse.REMAINDER, metavar="PART")
    own = parser.parse_args(arguments)
    if own.docs:
        try:
            fill_in_docs()
        except (FileNotFoundError, KeyError) as exc:
            print(f"bench.py: no such result: {exc}; run the part with --json {RESULTS}", file=sys.stderr)
            return EX_DATA
        return 0
    parts = [part for part in own.parts if not part.startswith("-")]
    options: list[str] = []
    if len(parts) < len(own.parts):  # a part with its own options
        parts, options = own.parts[:1], own.parts[1:]
    unknown = set(parts) - set(PARTS)
    if unknown:
        print(
            f"bench.py: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}, "
            "and options must follow a single part",
            file=sys.stderr,
        )
        return EX_USAGE
    print(machine())
    statuses = [measure(part, options, own.json) for part in parts or PARTS]
    return max(statuses)


def measure(part: str, options: list[str], results: Path | None) -> int:
    """Run a part, in a process of its own."""
    print(f"\n== {part}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder:
        rows = Path(folder) / "rows"
        status = subprocess.run(
            [sys.executable, "-m", f"bench.{part}", "--rows", rows, *options],
            check=False,
        ).returncode
        if results is not None and rows.exists():
            keep(results, part, options, json.loads(rows.read_text()))
    return status


def keep(results: Path, part: str, options: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a part's rows into the document."""
    document = json.loads(results.read_text()) if results.exists() else {"parts": {}}
    document["parts"][part] = {
        "command": " ".join(["scripts/bench.py", part, *options]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "rows": rows,
    }
    results.write_text(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def fill_in_docs() -> None:
    """Update all pages and pictures; none if a result is missing."""
    results = json.loads(RESULTS.read_text())
    pages = {page: page.read_text() for page in report.pages(ROOT)}
    filled = {page: report.fill_in(text, results) for page, text in pages.items()}
    for page, text in filled.items():
        if text != pages[page]:
            page.write_text(text)
            print(f"{page.relative_to(ROOT)}: updated")
    for part, (draw, name) in PICTURES.items():
        draw([report.from_json(row) for row in results["parts"][part]["rows"]], ROOT / "docs" / name)


def machine() -> str:
    """Python, kernel, and the processors with their name."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = found[1] if found else platform.machine()
    kernel = platform.release().split("-")[0]
    return f"Python {platform.python_version()}, Linux {kernel}, {os.cpu_count()} CPUs, {name}"
