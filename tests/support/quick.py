"""Which tests are quick, and the guard that holds them to it (docs/testing.md).

Strategy: only a long test has a mark, `@pytest.mark.long`. A test is quick if nothing that it or its fixtures
name, through any number of helpers, comes from a module that starts processes or servers. This rule reads the
source, so it can be wrong about a test. Then the guard fails the test when it starts something: no quick test
can start anything.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
HELPERS = (ROOT / "tests", ROOT / "scripts")

STARTERS = frozenset(
    {
        *("http.server", "multiprocessing", "pty", "socket", "socketserver", "subprocess"),
        "rondo_tools.push.http.transport.Transport",
        *("rondo_tools.listeners", "rondo_tools.store.server"),
        *("rondo_tools.vmm.accel", "rondo_tools.vmm.cli", "rondo_tools.vmm.machine"),
    }
)

# What a quick test must not do, as audit events: see "Audit events table" in Python's documentation.
FORBIDDEN = frozenset(
    {
        *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"),
        *("socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"),
    }
)


class Name(NamedTuple):
    """A name at the top of a file; an empty one is all of the file."""

    path: Path
    name: str


def is_quick(item: pytest.Item) -> bool:
    """Whether a test starts nothing, as far as its source tells."""
    if not isinstance(item, pytest.Function) or any(map(item.get_closest_marker, ("long", "heavy"))):
        return False
    fixtures = [one.func for several in item._fixtureinfo.name2fixturedefs.values() for one in several]
    return not any(starts_something(_place(function)) for function in (item.function, *fixtures))


def _place(function: Callable[..., object]) -> Name:
    function = inspect.unwrap(function)
    return Name(Path(inspect.getfile(function)), function.__qualname__.partition(".")[0])


@cache
def starts_something(begin: Name) -> bool:
    """Whether one of the STARTERS is reached from a name."""
    return any(
        module in STARTERS or any(module.startswith(f"{starter}.") for starter in STARTERS)
        for _, refers in reach([begin])
        for module, _ in refers
    )


def reach(begin: Iterable[Name]) -> Iterator[tuple[Name, set[tuple[str, str]]]]:
    """All names that are reached from these, through tests/ and scripts/, each with what it refers to."""
    seen, left = set[Name](), list(begin)
    while left:
        one = left.pop()
        if one in seen or not any(one.path.is_relative_to(folder) for folder in HELPERS):
            continue
        seen.add(one)
        names = names_in(one.path)
        refers = set().union(*names.values()) if not one.name else names.get(one.name, set())
        yield one, refers
        for module, name in refers:
            path = _file(module) if module else one.path
            if path is not None:
                left.append(Name(path, name))


@cache
def names_in(path: Path) -> dict[str, set[tuple[str, str]]]:
    """What each name at the top of a file refers to: (module, name), with no module for this file's own."""
    found: dict[str, set[tuple[str, str]]] = {}
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):  # what stands in annotations is never evaluated
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    for statement in statements_in(tree.body):
        refers = {pair for node in ast.walk(statement) for _, pair in _imported(node)}
        refers |= {("", node.id) for node in ast.walk(statement) if isinstance(node, ast.Name)}
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found.setdefault(statement.name, set()).update(refers)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for name, pair in _imported(statement):
                found.setdefault(name, set()).add(pair)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found.setdefault(node.id, set()).update(refers)
    return found


def statements_in(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, and of the blocks in it that are no functions or classes."""
    for statement in body:
        blocks = [getattr(statement, name, []) for name in ("body", "orelse", "handlers", "finalbody")]
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) or not any(blocks):
            yield statement
        else:
            for block in blocks:
                yield from statements_in(block)


def _imported(node: ast.AST) -> Iterator[tuple[str, tuple[str, str]]]:
    """What an import binds: the name, and the (module, name) behind it."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], (alias.name, "")
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            is_module = inner in STARTERS or _file(inner) is not None
            pair = (inner, "") if is_module else (node.module, alias.name)
            yield alias.asname or alias.name, pair


@cache
def _file(module: str) -> Path | None:
    """The file of a helper; None for a module of the library, of a package, or of rondo."""
    if module.partition(".")[0] in {"rondo_tools", *sys.stdlib_module_names}:
        return None
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a name in a module, or what this machine has not
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


class Guard:
    """Fails a quick test that starts a process or a server, or opens /dev/kvm.

    An audit hook sees that whichever library does it. A hook cannot be removed, so there is one for the
    whole run, and `watching` turns it on.
    """

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching and (event in FORBIDDEN or (event == "open" and arguments[0] == "/dev/kvm")):
            self.seen.append(event if event != "open" else "open /dev/kvm")
            self.check()

    def check(self) -> None:
        """Fail if anything was started; also at the test's end, for the code under test may swallow it."""
        if self.seen:
            pytest.fail(
                f"a quick test must start nothing: {', '.join(self.seen)} (docs/testing.md)", pytrace=False
            )
