from __future__ import annotations

import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import Unpack

import pytest

from tests.support.fixtures import Query, Run, RunOptions


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder for a test's store, made by `made_store.add_session`."""
    return tmp_path / "store"


@pytest.fixture
def query(run: Run) -> Query:
    """Run bin/rondo-query to its end: ``query(store, "list", env={"LC_ALL": "C"})``; env is added."""

    def start(*argv: str | bytes | Path, **options: Unpack[RunOptions]) -> CompletedProcess[bytes]:
        options["env"] = {**os.environ, **options.get("env", {})}
        return run("rondo-query", *argv, **options)

    return start
