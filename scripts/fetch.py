#!/usr/bin/env python3
"""Put real programs into .tools/ of the checkout: no root, no installation, no service started.

    scripts/fetch.py prometheus rrdtool        prints the path of each, one a line
    scripts/fetch.py --unpack python3-pip-whl  prints the folder into which that package is unpacked

Each comes from the distribution's package, unpacked. Where packages cannot be had, a program on
PATH is used. Where there is neither, it says so and exits with 69. Needs nothing but Python.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TOOLS = Path(__file__).resolve().parent.parent / ".tools"
EX_USAGE, EX_UNAVAILABLE = 64, 69


class Program(NamedTuple):
    """Where a program comes from. A static one needs its own package and no other."""

    package: str
    path: str
    static: bool


PROGRAMS = {
    "prometheus": Program("prometheus", "usr/bin/prometheus", static=True),
    "promtool": Program("prometheus", "usr/bin/promtool", static=True),
    "rrdtool": Program("rrdtool", "usr/bin/rrdtool", static=False),
}


def fetch(name: str) -> Path:
    """The path of a program that runs. Raises LookupError with what was tried."""
    program = PROGRAMS[name]
    command = TOOLS / "bin" / name
    command.parent.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:  # two test runs may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if command.exists():
            return command
        try:
            unpack(program)
        except (OSError, subprocess.SubprocessError) as exc:
            found = shutil.which(name)
            if found:
                return Path(found)
            raise LookupError(
                f"{name}: no package {program.package!r} to be had, and none on PATH\n{said(exc)}"
            ) from exc
        # The library path is for packages with libraries; a static program does not mind.
        here = f'"$(dirname "$0")/../{program.package}"'
        script = f"""#!/bin/sh
root={here}
LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu:$root/usr/lib:$root/lib/x86_64-linux-gnu" \\
exec "$root/{program.path}" "$@"
"""
        with tempfile.NamedTemporaryFile("w", dir=command.parent, delete=False) as file:
            file.write(script)
        Path(file.name).chmod(0o755)
        Path(file.name).replace(command)
        return command


def unpack(program: Program) -> Path:
    """Download the package, with what it depends on unless it is static, and unpack it."""
    root = TOOLS / program.package
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        work = Path(temporary)
        # Lists that somebody fetched long ago may name files that are gone: then fetch our own.
        try:
            download(program, work, [])
        except subprocess.SubprocessError:
            lists = work / "lists"
            (lists / "partial").mkdir(parents=True)
            options = ["-o", f"Dir::State::Lists={lists}"]
            apt(work, [*options, "update"])
            download(program, work, options)
        for package in sorted(work.rglob("*.deb")):
            run(["dpkg", "-x", str(package), str(root)])
    return root


def download(program: Program, work: Path, options: list[str]) -> None:
    if program.static:
        apt(work, [*options, "download", program.package])
    else:
        apt(
            work,
            [*options, "install", "--download-only", "--no-install-recommends", "--yes", program.package],
        )


def apt(work: Path, arguments: list[str]) -> None:
    """Run apt-get with folders of its own, so that any user may, beside a running one of the system's."""
    cache = work / "cache"
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"Dir::Cache={cache}", "Debug::NoLocking=1", "Acquire::Retries=2", "Acquire::http::Timeout=30"]
    if os.geteuid() == 0:
        options.append("APT::Sandbox::User=root")  # else it drops to a user who cannot write here
    run(["apt-get", "-qq", *(part for option in options for part in ("-o", option)), *arguments], cwd=work)


def run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(
        command, cwd=cwd, check=True, timeout=300, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def said(exc: BaseException) -> str:
    return (getattr(exc, "stderr", None) or str(exc)).strip()


def main(arguments: list[str]) -> int:
    unpacking = arguments[:1] == ["--unpack"]
    names = arguments[1:] if unpacking else arguments
    unknown = [name for name in names if not unpacking and name not in PROGRAMS]
    if not names or unknown:
        print(
            f"usage: fetch.py NAME... | --unpack PACKAGE...   known: {', '.join(PROGRAMS)}", file=sys.stderr
        )
        return EX_USAGE
    for name in names:
        try:
            print(unpack(Program(name, "", static=True)) if unpacking else fetch(name))
        except (LookupError, OSError, subprocess.SubprocessError) as exc:
            print(f"fetch.py: {said(exc)}", file=sys.stderr)
            return EX_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
