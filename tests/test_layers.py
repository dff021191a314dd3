"""Who may import whom, and what: the picture in docs/design.md, held by a walk over every source."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
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
    "foreign",
    "signals",
    "wakeup",
    "stream",
    "selector",
    "command",
    "printable",
    "ratelimit",
    "progress",
    "sd_notify",
    "secret",
    "urls",
    "listeners",
    "share",
}
# What a layer may import besides itself and the foundation. Producers are not to know who reads them,
# ways out of a store not to know one another, nor how it is written.
BELOW = {
    "start": (),
    "producer": (),
    "attach": ("producer",),
    "feed": ("producer",),
    "vmm": ("producer",),
    "store": (),
    "prom": (),
    "view": ("store.format", "store.reader"),
    "push": ("prom", "view", "store.format", "store.reader", "store.default"),
    "query": ("view", "store.format", "store.reader", "store.default"),
    "serve": ("prom", "view", "store.format", "store.reader"),
}
# No I/O but with files, no thread, no waiting: in these and in all that they import.
PURE = (
    *("catalog", "errors", "selector", "stream", "units"),
    *("prom", "store.format", "producer.pace", "producer.text"),
    *("view.buckets", "view.cells", "view.columns", "view.measures", "view.state"),
    "query.steps",
    *("push.model", "push.encoding", "push.split", "push.piece", "push.reconcile"),
    *("push.stretch", "push.stretch_file", "push.vanished", "push.batches"),
    *("feed.text", "feed.session", "feed.lines"),
    *(
        "attach.naming",
        "attach.kata",
        "attach.choose",
        "attach.counters.assembler",
        "attach.counters.programs",
    ),
)
IMPURE = {
    "socket",
    "ssl",
    "requests",
    "http",
    "urllib",
    "fcntl",
    "select",
    "threading",
    "subprocess",
    "asyncio",
}
# Names of files and folders in a store, or what they are made of.
STORE_FILE = re.compile(
    r"(store|state)\.json|lock|reserve|ended|last_rows|tier_\d*|(carry|cursor|rejected)_|"
    r".*\.(lock|jsonl(\.1)?)"
)
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
        return is_within(imported, layer)
    if is_within(imported, "store.server") and not is_within(module, "store.server"):
        return module == "store.cli"
    if is_within(module, "store.format") and not is_within(imported, "store.format"):
        return False
    if is_within(imported, "producer") and is_within(module, "vmm.devices", "vmm.accel", "vmm.boot"):
        return False
    if not is_within(imported, layer, *BELOW[layer]):
        return False
    rooms = ("vmm.devices", "vmm.accel", "vmm.boot")
    for room in rooms:
        if is_within(module, room):
            if is_within(imported, *(other for other in rooms if other != room)):
                return False
            if room == "vmm.devices" and is_within(imported, "vmm.layout"):
                return False  # a device sees offsets, never addresses
    return True


def others_of(source: str) -> set[str]:
    """What a source imports that is not rondo's, by the names of packages; `time.sleep` if it waits."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
            if node.module == "time" and any(alias.name == "sleep" for alias in node.names):
                found.add("time.sleep")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep":
            found.add("time.sleep")
    return found - {"rondo_tools"}


def impurities(module: str, sources: Mapping[str, str]) -> list[str]:
    """What a pure module, or any that it imports, may not import: each as the way there."""
    found: list[str] = []
    seen: set[str] = set()
    ways: list[tuple[str, ...]] = [(module,)]
    while ways:
        way = ways.pop()
        if way[-1] in seen or way[-1] not in sources:
            continue
        seen.add(way[-1])
        source = sources[way[-1]]
        found += [" -> ".join((*way, one)) for one in sorted(others_of(source) & {*IMPURE, "time.sleep"})]
        ways += ((*way, imported) for imported in imports_of(source))
    return found


def store_files_in(source: str) -> set[str]:
    """The names of a store's files that a source spells."""
    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STORE_FILE.fullmatch(node.value)
    }


def wrong_in(module: str, sources: Mapping[str, str]) -> list[str]:
    """What a module has that it may not have."""
    source = sources[module]
    wrong = [f"imports {one}" for one in sorted(imports_of(source)) if not may_import(module, one)]
    if "requests" in others_of(source) and not is_within(module, "push.http"):
        wrong.append("imports requests")
    if is_within(module, *PURE):
        wrong += [f"is to be pure: {way}" for way in impurities(module, sources)]
    if module != "store.format.layout":
        wrong += [f"spells {name!r}" for name in sorted(store_files_in(source))]
    return wrong


SOURCES = {name_of(path): path.read_text() for path in MODULES}


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    assert wrong_in(module, SOURCES) == []


def test_the_rules_name_existing_modules() -> None:
    for name in (*FOUNDATION, *BELOW, *(one for some in BELOW.values() for one in some), *PURE):
        assert is_module(name.split(".")), name
    layers = {module.split(".")[0] for module in SOURCES if module}
    assert layers == {*FOUNDATION, *BELOW}


def test_no_module_imports_another_in_a_circle() -> None:
    graph = {module: imports_of(source) for module, source in SOURCES.items()}
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
    ("module", "source", "wrong"),
    [
        ("push.pusher", "from rondo_tools.vmm import bus", "imports vmm.bus"),
        ("push.drain", "from rondo_tools.store.keeper import Keeper", "imports store.keeper"),
        ("push.drain", "def f():\n    from rondo_tools.query import tail", "imports query.tail"),
        ("query.cli", "from rondo_tools.push.cursor import Cursor", "imports push.cursor"),
        ("query.cli", "from rondo_tools.prom.labels import sent_labels", "imports prom.labels"),
        ("query.curve", "from rondo_tools.store.snapshot import Snapshot", "imports store.snapshot"),
        ("view.fleet", "from rondo_tools.query import tail", "imports query.tail"),
        ("view.fleet", "from rondo_tools.push.cursor import Cursor", "imports push.cursor"),
        ("view.fleet", "from rondo_tools.store.snapshot import Snapshot", "imports store.snapshot"),
        ("prom.samples", "from rondo_tools.push.model import Batch", "imports push.model"),
        ("prom.samples", "from rondo_tools.store.format.schema import Schema", "imports store.format.schema"),
        ("store.keeper", "from rondo_tools.prom.samples import STALE_NAN", "imports prom.samples"),
        ("vmm.cli", "import rondo_tools.store.reader", "imports store.reader"),
        ("vmm.output", "from rondo_tools.store.format import layout", "imports store.format.layout"),
        ("vmm.output", "from rondo_tools.push import model", "imports push.model"),
        ("vmm.devices.serial", "from rondo_tools.vmm.layout import COM1", "imports vmm.layout"),
        ("vmm.devices.virtio.block", "from rondo_tools.vmm.accel import kvm", "imports vmm.accel.kvm"),
        ("vmm.devices.power", "def f():\n    from rondo_tools import catalog", "imports catalog"),
        ("stream", "from rondo_tools.store.journal import Journal", "imports store.journal"),
        ("store.intake", "from rondo_tools.store.server.server import Server", "imports store.server.server"),
        ("store.format.frames", "from rondo_tools.store.folder import Folder", "imports store.folder"),
        ("push.pusher", "def f():\n    import requests", "imports requests"),
        ("push.model", "import socket", "is to be pure: push.model -> socket"),
        ("push.encoding.v1", "from ssl import SSLContext", "is to be pure: push.encoding.v1 -> ssl"),
        ("push.split", "import time\ntime.sleep(1)", "is to be pure: push.split -> time.sleep"),
        ("push.reconcile", "from time import sleep", "is to be pure: push.reconcile -> time.sleep"),
        ("prom.samples", "import http.client", "is to be pure: prom.samples -> http"),
        ("store.format.layout", "def f():\n    import fcntl", "is to be pure: store.format.layout -> fcntl"),
        ("stream", "import select", "is to be pure: stream -> select"),
        ("stream.decoder", "import select", "is to be pure: stream.decoder -> select"),
        ("store.intake", "from rondo_tools.stream.decoder import Decoder", "imports stream.decoder"),
        ("catalog", "import threading", "is to be pure: catalog -> threading"),
        ("stream", "from rondo_tools import wakeup", "is to be pure: stream -> wakeup -> threading"),
        ("prom.lives", "from rondo_tools import wakeup", "is to be pure: prom.lives -> wakeup -> select"),
        ("store.keeper", 'path = folder / "state.json"', "spells 'state.json'"),
        ("push.dead_letters", 'path = store / f"rejected_{cursor}.jsonl"', "spells 'rejected_'"),
        ("query.cli", 'path = f"tier_{tier}"', "spells 'tier_'"),
        ("vmm.devices.serial", "from rondo_tools.producer import backlog", "imports producer.backlog"),
        ("store.intake", "from rondo_tools.producer.link import Link", "imports producer.link"),
        ("producer.link", "from rondo_tools.vmm.output import OutputThread", "imports vmm.output"),
        ("producer.link", "from rondo_tools.store.reader import Store", "imports store.reader"),
    ],
)  # fmt: skip
def test_forbidden_imports_are_found(module: str, source: str, wrong: str) -> None:
    assert wrong in wrong_in(module, {**SOURCES, module: source})


def test_every_module_has_a_head_comment() -> None:
    for path in MODULES:
        if source := path.read_text().strip():
            assert ast.get_docstring(ast.parse(source)), f"{path.relative_to(ROOT)} has no head comment"
