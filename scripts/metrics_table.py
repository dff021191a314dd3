#!/usr/bin/env python3
"""Write the table of docs/metrics.md from the catalogue; with --check, only compare."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rondo_tools.catalog import ALL  # noqa: E402

HEAD = "| series | kind | unit | meaning |\n|---|---|---|---|\n"


def with_table(text: str) -> str:
    """The document with its table made anew; what stands around it stays."""
    before, head, after = text.partition(HEAD)
    if not head:
        raise SystemExit("docs/metrics.md has no table to fill")
    rest = after[after.find("\n\n") :] if "\n\n" in after else "\n"
    rows = [f"| `{one}` | {one.kind} | {one.unit} | {one.help} |" for one in ALL]
    return before + head + "\n".join(rows) + rest


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
