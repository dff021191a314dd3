"""Makes the table of docs/metrics.md from the catalogue."""

from __future__ import annotations

from rondo_tools.catalog import ALL

HEAD = "| series | kind | unit | meaning |\n|---|---|---|---|\n"


def with_table(text: str) -> str:
    """The document with its table replaced; the rest stays."""
    before, head, after = text.partition(HEAD)
    if not head:
        raise SystemExit("docs/metrics.md has no table to fill")
    rest = after[after.find("\n\n") :] if "\n\n" in after else "\n"
    rows = [f"| `{one}` | {one.kind} | {one.unit} | {one.help} |" for one in ALL]
    return before + head + "\n".join(rows) + rest
