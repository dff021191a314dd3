"""Programs that tests run to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.needs import PATIENCE_S


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """A program with its output captured as text; any status will do."""
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout_s)
