"""The table of the specification's requirements names existing tests."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "remote-write.md"


def test_every_row_of_the_table_names_an_existing_test() -> None:
    rows = re.findall(r"^\| (?:MUST|SHOULD)(?: NOT)? \|.*$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        found = re.search(r"`(test_\w+\.py)::(test_\w+)` \|$", row)
        assert found is not None, row
        file = HERE / found[1]
        assert file.exists(), row
        assert re.search(rf"^def {found[2]}\(", file.read_text(), re.MULTILINE), row
