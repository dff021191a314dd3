"""Secrets in files: who is warned that others can read one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rondo_tools.secret import Secret


@pytest.mark.parametrize(
    ("mode", "is_ours", "warns"), [(0o644, True, True), (0o640, True, False), (0o644, False, False)]
)
def test_our_own_file_that_all_can_read_gets_a_warning(
    mode: int,
    is_ours: bool,
    warns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(mode)
    if not is_ours:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert Secret(path, "--token-file").text() == "secret"
    assert ("chmod 600" in caplog.text) == warns
