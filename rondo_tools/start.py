"""The start of every tool: is this Python new enough, and are all packages installed?

Strategy: import nothing else of rondo before the version is checked; a module that cannot be imported is a
missing package. So this file and `rondo_tools/__init__.py` must be valid in Pythons that are far too old for
the rest: a test parses them as Python 3.6 would.
"""

import importlib
import sys
from typing import Callable, Tuple  # noqa: UP035  (as above)

EX_UNAVAILABLE = 69  # as in rondo_tools.errors, which an old Python cannot read
NEEDED = (3, 11)


def too_old(version: Tuple[int, ...]) -> str:  # noqa: UP006
    """The message for a Python of this version; empty if it is new enough."""
    if version[:2] >= NEEDED:
        return ""
    return (
        f"this is Python {version[0]}.{version[1]} ({sys.executable}), and rondo needs "
        f"{NEEDED[0]}.{NEEDED[1]} or newer: run it with one, or make setup PYTHON=/path/to/python3"
    )


def missing(error: ImportError, tool: str) -> str:
    """The message for a missing or unusable package; empty if the error is rondo's own."""
    package = (error.name or "").split(".")[0]
    if package in ("", "rondo_tools"):
        return ""
    absent = isinstance(error, ModuleNotFoundError) and error.name == package
    trouble = "is missing" if absent else f"cannot be used ({error})"
    return (
        f"the Python package {package} {trouble}: in rondo's checkout, run make setup and use "
        f".venv/bin/{tool}, or pip install . into an environment of yours"
    )


def _entry_point(package: str) -> "Callable[[], int]":
    tool = f"rondo-{package}"

    def start() -> int:
        trouble = too_old(sys.version_info[:2])
        if not trouble:
            try:
                return int(importlib.import_module(f"rondo_tools.{package}.cli").main())
            except ImportError as error:  # also of what a command imports later
                trouble = missing(error, tool)
                if not trouble:
                    raise
        sys.stderr.write(f"{tool}: {trouble}\n")
        return EX_UNAVAILABLE

    return start


rondo_attach = _entry_point("attach")
rondo_feed = _entry_point("feed")
rondo_push = _entry_point("push")
rondo_query = _entry_point("query")
rondo_serve = _entry_point("serve")
rondo_store = _entry_point("store")
rondo_vmm = _entry_point("vmm")
