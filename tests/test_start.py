"""A tool without its packages, or with a Python that is too old: one line with the error and what to do."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rondo_tools import start
from rondo_tools.errors import EX_UNAVAILABLE
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = list(PROJECT["scripts"])
FIRST = [ROOT / "rondo_tools" / "__init__.py", ROOT / "rondo_tools" / "start.py"]
FIRST += [ROOT / "bin" / tool for tool in TOOLS]


@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.name)
def test_an_old_python_parses_the_first_modules(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {"importlib", "pathlib", "sys"}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert froms <= {"rondo_tools.start", "typing"}


def test_how_old_is_too_old() -> None:
    for version in ((3, 10), (3, 6), (2, 7)):
        assert f"this is Python {version[0]}.{version[1]} (" in start.too_old(version)
    for version in ((3, 11), (3, 14), (4, 0)):
        assert start.too_old(version) == ""
    assert PROJECT["requires-python"] == f">={start.NEEDED[0]}.{start.NEEDED[1]}"
    assert start.EX_UNAVAILABLE == EX_UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "package numpy is missing: "),
        (ModuleNotFoundError("x", name="argh.assembling"), "package argh cannot be used (x): "),
        (ImportError("no such name", name="argh.assembling"), "package argh cannot be used (no such name): "),
        (ImportError("no such name", name="argh"), "package argh cannot be used (no such name): "),
        (ModuleNotFoundError("x", name="rondo_tools.nowhere"), ""),
        (ImportError("x", name="rondo_tools.query.cli"), ""),
        (ImportError("x"), ""),
    ],
)
def test_messages_for_missing_packages(error: ImportError, says: str) -> None:
    found = start.missing(error, "rondo-x")
    assert says in found
    assert bool(found) == bool(says)


def test_an_import_error_of_rondo_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str) -> None:
        raise ImportError("cannot import name 'x'", name=module)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match="cannot import name 'x'"):
        start.rondo_query()


def test_each_tool_starts_here() -> None:
    assert sorted(TOOLS) == sorted(path.name for path in (ROOT / "bin").iterdir())
    for tool, entry in PROJECT["scripts"].items():
        function = tool.replace("-", "_")
        assert entry == f"rondo_tools.start:{function}"
        assert callable(getattr(start, function))


def says_one_line(python: list[str], tool: str, says: str) -> None:
    done = subprocess.run(
        [*python, ROOT / "bin" / tool, "--help"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (69, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tool}: ")
    assert says in line
    assert "make setup" in line


@pytest.mark.parametrize("tool", TOOLS)
def test_a_bare_checkout(tool: str) -> None:
    says_one_line([sys.executable, "-I", "-S", "-B"], tool, "package argh is missing")


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9", "3.10"])
def test_an_old_python(version: str) -> None:
    python = shutil.which(f"python{version}")
    # A name on PATH may be a shim for a Python that is not chosen here.
    environment = {**os.environ, "PYENV_VERSION": f"system:{version}"}
    code = "import sys; print(sys.executable)"
    done = python and subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=environment, timeout=PATIENCE_S
    )
    if not done or done.returncode:
        pytest.skip(f"there is no Python {version} here")
    says_one_line([done.stdout.strip(), "-B"], "rondo-query", f"this is Python {version} (")
