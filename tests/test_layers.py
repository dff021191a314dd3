"""Imports point down only: the picture in docs/design.md, held by a walk over every import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rondo_tools"

FOUNDATION = {
    "errors",
    "catalog",
    "clock",
    "units",
    "files",
    "signals",
    "wakeup",
    "stream",
    "selector",
    "command",
    "printable",
    "ratelimit",
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.endswith("_pb2.py"))


def name_of(path: Path) -> str:
    """``rondo_tools/vmm/bus.py`` is ``vmm.bus``; a package goes by its own name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports_of(source: str) -> set[str]:
    """The rondo modules that a source imports, also inside functions, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("rondo_tools."):
                parts = name.removeprefix("rondo_tools.").split(".")
                # `from rondo_tools.x import y`: y may be a module of x, or a name in it.
                while parts and not is_module(parts):
                    parts.pop()
                if parts:
                    found.add(".".join(parts))
    return found


def is_module(parts: list[str]) -> bool:
    path = PACKAGE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def may_import(module: str, imported: str) -> bool:
    """Design 7: who may import whom."""
    layer = module.split(".")[0]
    if imported in FOUNDATION:
        # A device knows nothing of metrics' names or of the stream.
        return not (is_within(module, "vmm.devices") and imported in {"catalog", "stream", "command"})
    if layer in FOUNDATION:
        return False
    if layer in ("push", "query") and is_within(imported, "store"):
        return imported == "store.reader" or is_within(imported, "store.format")
    if is_within(imported, "store.server") and not is_within(module, "store.server"):
        return module == "store.cli"
    if is_within(module, "store.format") and not is_within(imported, "store.format"):
        return False
    if layer == "push" and is_within(imported, "prom"):
        return True
    if not is_within(imported, layer):
        return False
    rooms = ("vmm.devices", "vmm.accel", "vmm.boot")
    for room in rooms:
        if is_within(module, room):
            if is_within(imported, *(other for other in rooms if other != room)):
                return False
            if room == "vmm.devices" and is_within(imported, "vmm.layout"):
                return False  # a device sees offsets, never addresses
    return True


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    module = name_of(path)
    wrong = {one for one in imports_of(path.read_text()) if not may_import(module, one)}
    assert not wrong, f"{module} may not import {', '.join(sorted(wrong))}"


def test_no_module_imports_another_in_a_circle() -> None:
    graph = {name_of(path): imports_of(path.read_text()) for path in MODULES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for imported in graph.get(module, ()):
                if imported != module:
                    visit(imported, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("push.pusher", "from rondo_tools.vmm import bus"),
        ("push.drain", "from rondo_tools.store.keeper import Keeper"),
        ("vmm.cli", "import rondo_tools.store.reader"),
        ("vmm.devices.serial", "from rondo_tools.vmm.layout import COM1"),
        ("vmm.devices.virtio.block", "from rondo_tools.vmm.accel import kvm"),
        ("vmm.devices.power", "def f():\n    from rondo_tools import catalog"),
        ("stream", "from rondo_tools.store.journal import Journal"),
        ("store.intake", "from rondo_tools.store.server.server import Server"),
        ("store.format.frames", "from rondo_tools.store.folder import Folder"),
    ],
)
def test_the_walk_finds_what_is_forbidden(module: str, source: str) -> None:
    assert any(not may_import(module, imported) for imported in imports_of(source))


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        if source := path.read_text().strip():
            assert ast.get_docstring(ast.parse(source)), f"{path.relative_to(ROOT)} has no head comment"
