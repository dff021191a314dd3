from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where `made_store.add_session` makes a store for one test."""
    return tmp_path / "store"
