"""Which tests want which real programs, read from their source; the table of it in docs/testing.md.

    python -m tests.support.program_users    makes the table anew

Strategy: as the rule of the quick tier, by all that a test and its fixtures name, through any number of
helpers. A program is wanted by a test that reaches its name as a string. Where no test of `make test` does,
nothing is fetched for it before (`For`, in devtools/programs.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from devtools import ROOT
from devtools.programs import NEWER, PROGRAMS, For
from tests.support.quick import Name, names_in, reach, statements_in

PAGE = ROOT / "docs" / "testing.md"
BEGIN, END = "<!-- programs, by tests/support/program_users.py -->\n", "<!-- end of programs -->\n"

ASKING = frozenset({"fetch", "program", "of_all_suites"})
LISTED = {name: program for name, program in PROGRAMS.items() if name not in NEWER}
"""Receivers of newer suites stand in for the machine's own, by parameters of long tests."""

Users = dict[str, dict[For, set[Path]]]


@cache
def users() -> Users:
    """For each program the test files that want it: in `make test`, and those where only long tests do."""
    found: Users = {name: {For.TEST: set(), For.LONG: set()} for name in LISTED}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tests = list(tests_of(path))
        for target in (For.TEST, For.LONG):
            for program in programs_of(Name(path, test) for test, of in tests if of is target):
                found[program][target].add(path)
    for of in found.values():
        of[For.LONG] -= of[For.TEST]
    return found


def tests_of(path: Path) -> Iterator[tuple[str, For]]:
    """The tests of a file. One with a single long parameter counts as not long."""
    tree = ast.parse(path.read_bytes())
    all_long = path.is_relative_to(ROOT / "tests" / "linux") or any(
        "mark.long" in ast.unparse(one) and "pytestmark" in ast.unparse(one)
        for one in tree.body
        if isinstance(one, ast.Assign)
    )
    for one in tree.body:
        if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"):
            is_long = any(ast.unparse(mark) == "pytest.mark.long" for mark in one.decorator_list)
            yield one.name, For.LONG if all_long or is_long else For.TEST


def programs_of(tests: Iterable[Name]) -> set[str]:
    """The programs that tests reach, themselves or through their fixtures."""
    return {
        text
        for one, _ in reach(with_fixtures(tests))
        for text in strings_in(one.path).get(one.name, ())
        if text in LISTED
    }


def with_fixtures(tests: Iterable[Name]) -> set[Name]:
    seen, left = set[Name](), list(tests)
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            names = arguments_in(one.path).get(one.name, ())
            left += filter(None, (fixture(name, one.path) for name in names))
    return seen


@cache
def fixture(name: str, path: Path) -> Name | None:
    """Where a fixture is defined that a test of this file names: there, or in a conftest.py."""
    folders = [folder for folder in path.parents if folder.is_relative_to(ROOT / "tests")]
    for file in (path, *(folder / "conftest.py" for folder in folders)):
        if file.exists() and name in names_in(file):
            return Name(file, name)
    return None


@cache
def arguments_in(path: Path) -> dict[str, set[str]]:
    return {
        one.name: {argument.arg for argument in one.args.args}
        for one in ast.parse(path.read_bytes()).body
        if isinstance(one, ast.FunctionDef)
    }


@cache
def strings_in(path: Path) -> dict[str, set[str]]:
    """The strings below each name at the top of a file that asks for programs, or is a string."""
    found: dict[str, set[str]] = {}
    text = path.read_text()
    if not any(f'"{name}"' in text for name in LISTED):
        return found  # most: to parse takes long
    for statement in statements_in(ast.parse(text).body):
        nodes = list(ast.walk(statement))
        asks = {getattr(node, "id", "") or getattr(node, "arg", "") for node in nodes} & ASKING
        if not asks and not isinstance(getattr(statement, "value", None), ast.Constant):
            continue
        texts = {
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = {statement.name}
        else:
            names = {
                node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
        for name in names:
            found.setdefault(name, set()).update(texts)
    return found


def table() -> str:
    lines = ["| program | Debian's package | tests |", "|---|---|---|"]
    for name, of in users().items():
        program = LISTED[name]
        package = f"`{program.package}`"
        parts = [", ".join(f"`{path.relative_to(ROOT)}`" for path in sorted(of[For.TEST]))]
        if of[For.LONG]:
            parts.append("long: " + ", ".join(f"`{path.relative_to(ROOT)}`" for path in sorted(of[For.LONG])))
        wanted = "; ".join(filter(None, parts)) or f"none; {program.target.value}"
        lines.append(f"| `{name}` | {package} | {wanted} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """docs/testing.md with the table as it is to be."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
