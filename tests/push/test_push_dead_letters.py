"""The file of dead letters: whole lines, and at most two files of bounded size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rondo_tools.push.dead_letters import DeadLetters


def test_the_newest_lines_are_kept_and_the_size_is_bounded(tmp_path: Path) -> None:
    rejected = DeadLetters(tmp_path, "lab", max_bytes=1000)
    for number in range(500):
        rejected.add([{"series": f"a{number}", "answer": "words \ud800 \u00fc"}])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["rejected_lab.jsonl", "rejected_lab.jsonl.1"]
    assert all(file.stat().st_size <= 1000 for file in files)
    lines = [json.loads(line) for file in reversed(files) for line in file.read_text().splitlines()]
    numbers = [int(line["series"][1:]) for line in lines]
    assert numbers == list(range(numbers[0], 500))
    assert len(numbers) > 10


def test_an_unwritable_folder_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    DeadLetters(tmp_path / "none", "lab").add([{"series": "a"}])
    assert "rejected_lab.jsonl" in caplog.text
