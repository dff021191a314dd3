"""Real programs in .tools/ of the checkout: no root, no installation, no service started.

Each comes unpacked from the distribution's package. If packages cannot be downloaded, or the program is
installed already, the one on PATH is used. Needs only Python.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from devtools import ROOT

TOOLS = ROOT / ".tools"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Needs(Enum):
    """The packages downloaded with a package."""

    NOTHING = "the package alone"
    MISSING = "its dependencies that this machine lacks"
    ALL = "all of its dependencies, as for an empty machine"


class For(Enum):
    """The first make target that needs a program: tests/devtools/test_programs.py compares the two."""

    TEST = "make test"
    LONG = "make test-long"
    BENCH = "make bench"


class Program(NamedTuple):
    """A program's package, and its path there; `suite` is a suite of Debian other than the machine's own.
    `only`: the other, large files of the package are not kept."""

    package: str
    path: str
    needs: Needs
    target: For = For.TEST
    suite: str = ""
    only: bool = False

    @property
    def root(self) -> Path:
        """The folder that it is unpacked into."""
        return TOOLS / Path(self.path).name if self.only else root_of(self.package, suite=self.suite)


PROGRAMS = {
    "busybox": Program("busybox-static", "bin/busybox", Needs.NOTHING),
    "chromium": Program("chromium", "usr/lib/chromium/chromium", Needs.MISSING),
    "fish": Program("fish", "usr/bin/fish", Needs.MISSING),
    "iasl": Program("acpica-tools", "usr/bin/iasl", Needs.NOTHING),
    "mandoc": Program("mandoc", "usr/bin/mandoc", Needs.NOTHING),
    "mmdebstrap": Program("mmdebstrap", "usr/bin/mmdebstrap", Needs.NOTHING, For.LONG),
    "nginx": Program("nginx", "usr/sbin/nginx", Needs.MISSING),
    "prometheus": Program("prometheus", "usr/bin/prometheus", Needs.NOTHING, only=True),
    "prometheus-node-exporter": Program(
        "prometheus-node-exporter", "usr/bin/prometheus-node-exporter", Needs.NOTHING
    ),
    "prometheus-process-exporter": Program(
        "prometheus-process-exporter", "usr/bin/prometheus-process-exporter", Needs.NOTHING, For.BENCH
    ),
    "promtool": Program("prometheus", "usr/bin/promtool", Needs.NOTHING, only=True),
    "qemu-system-x86_64": Program("qemu-system-x86", "usr/bin/qemu-system-x86_64", Needs.MISSING),
    "rrdtool": Program("rrdtool", "usr/bin/rrdtool", Needs.MISSING, For.BENCH),
    "rsync": Program("rsync", "usr/bin/rsync", Needs.MISSING),
    "sshd": Program("openssh-server", "usr/sbin/sshd", Needs.MISSING),
    "systemd-analyze": Program("systemd", "usr/bin/systemd-analyze", Needs.MISSING),
    "systemd-socket-activate": Program("systemd", "usr/bin/systemd-socket-activate", Needs.MISSING),
    "systemd-sysusers": Program("systemd", "bin/systemd-sysusers", Needs.MISSING),
    "systemd-tmpfiles": Program("systemd", "bin/systemd-tmpfiles", Needs.MISSING),
    "victoria-metrics": Program("victoria-metrics", "usr/bin/victoria-metrics", Needs.NOTHING),
    "vmagent": Program("victoria-metrics", "usr/bin/vmagent", Needs.NOTHING),
    "zsh": Program("zsh", "bin/zsh", Needs.MISSING),
}
NEWER_SUITES = ("trixie", "sid")
NEWER = {
    f"{name}-{suite}": PROGRAMS[name]._replace(target=For.LONG, suite=suite, only=False)
    for name in ("prometheus", "victoria-metrics", "vmagent")
    for suite in NEWER_SUITES
}
PROGRAMS |= NEWER


def fetch(name: str) -> Path:
    """The path of a program that runs. Raises LookupError with what was tried."""
    program = PROGRAMS[name]
    command = TOOLS / "bin" / name
    with lock():
        if command.exists():
            return command
        try:
            path = unpacked(program)
        except (OSError, subprocess.SubprocessError) as exc:
            found = shutil.which(name)
            if found:
                return Path(found)
            raise LookupError(
                f"{name}: the package {program.package!r} is not available, and none is on PATH\n"
                f"{reason_of(exc)}"
            ) from exc
        root = program.root
        # The library path is for packages with libraries; static programs ignore it.
        script = f"""#!/bin/sh
root="$(dirname "$0")/../{root.name}"
libraries="$root/usr/lib/x86_64-linux-gnu"
LD_LIBRARY_PATH="$libraries:$libraries/systemd:$libraries/pulseaudio:$root/usr/lib:\\
$root/lib/x86_64-linux-gnu" \\
exec "$root/{path.relative_to(root)}" "$@"
"""
        command.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=command.parent, delete=False) as file:
            file.write(script)
        Path(file.name).chmod(0o755)
        Path(file.name).replace(command)
        return command


def unpacked(program: Program) -> Path:
    """The program in its package, which is downloaded unless another program has done that before."""
    try:
        return in_root(program.root, program.path)
    except FileNotFoundError:
        only = program.path if program.only else ""
        root = unpack(program.package, program.needs, suite=program.suite, root=program.root, only=only)
        return in_root(root, program.path)


def is_there(name: str) -> bool:
    """Whether `fetch` has nothing to download."""
    return (TOOLS / "bin" / name).exists()


def sizes(names: Iterable[str]) -> dict[str, int | None]:
    """The bytes that `fetch` downloads for each program, in this order; 0 if its package is there already.

    None if the size is unknown until Debian's package lists are fetched.
    """
    found: dict[str, int | None] = {}
    roots = set[Path]()
    with lock(), tempfile.TemporaryDirectory(dir=TOOLS) as work:
        for name in names:
            program = PROGRAMS[name]
            if is_there(name) or program.root in roots or program.root.exists():
                found[name] = 0
                continue
            roots.add(program.root)
            try:
                uris = download([program.package], program.needs, Path(work), ["--print-uris"])
            except (OSError, subprocess.SubprocessError):
                uris = ""
            # 'URL' FILE BYTES HASH
            total = sum(int(line.split()[2]) for line in uris.splitlines() if line.startswith("'"))
            found[name] = total if total and not program.suite else None
    return found


def folder(package: str, needs: Needs = Needs.NOTHING, *more: str) -> Path:
    """The folder of an unpacked package, together with `more` packages; downloaded once.

    Raises LookupError with the error.
    """
    with lock():
        root = root_of(package, *more)
        if root.exists():
            return root
        try:
            return unpack(package, needs, *more)
        except (OSError, subprocess.SubprocessError) as exc:
            raise LookupError(f"the package {package!r} is not available\n{reason_of(exc)}") from exc


def package_version(name: str) -> str:
    """The version of a program's package: 3.5.3+ds1-6. Raises LookupError if it was not fetched."""
    program = PROGRAMS[name]
    for changelog in program.root.glob(f"usr/share/doc/{program.package}/changelog.Debian*.gz"):
        with gzip.open(changelog, "rt") as file:
            return re.search(r"\((?:\d+:)?(.+?)\)", file.readline())[1]  # type: ignore[index]
    raise LookupError(f"{name} was not fetched")


def root_of(*packages: str, suite: str = "") -> Path:
    return TOOLS / (f"{suite}-" * bool(suite) + "+".join(packages))


def in_root(root: Path, path: str) -> Path:
    """The path of a file: newer distributions have moved everything from / to /usr."""
    found = next((one for one in (root / path, root / "usr" / path) if one.exists()), None)
    if found is None:
        raise FileNotFoundError(f"no {path} in {root.name}: is it installed already?")
    return found


@contextmanager
def lock() -> Iterator[None]:
    """A lock between test runs. Leftovers of a killed run are removed."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in TOOLS.glob("tmp*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def unpack(
    package: str, needs: Needs, *more: str, suite: str = "", root: Path | None = None, only: str = ""
) -> Path:
    """Download packages and unpack them into one folder, all or nothing; with `only`, just that file."""
    root = root or root_of(package, *more, suite=suite)
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        work = Path(temporary)
        options = sources(suite, work)
        try:
            if suite:
                own_lists(work, options)
            download([package, *more], needs, work, options)
        except subprocess.SubprocessError:
            if suite:
                raise
            # Old lists may name files that are gone.
            own_lists(work, options)
            download([package, *more], needs, work, options)
        for name in (package, *more):
            follow(name, work, options)
        made = work / "root"
        made.mkdir()
        for deb in sorted(work.rglob("*.deb")):
            run(["dpkg", "-x", str(deb), str(made)])
        if only:  # and the changelog, which has the package's version
            kept, pages = work / "only", Path("usr/share/doc", package)
            for path in (Path(only), pages):
                (kept / path).parent.mkdir(parents=True, exist_ok=True)
            in_root(made, only).rename(kept / only)
            (made / pages).rename(kept / pages)
            made = kept
        made.chmod(0o755)
        if root.exists():
            shutil.rmtree(root)
        return made.rename(root)


def own_lists(work: Path, options: list[str]) -> None:
    """Fetch package lists, and add their place to `options`."""
    (work / "lists" / "partial").mkdir(parents=True)
    options += ["-o", f"Dir::State::Lists={work / 'lists'}"]
    apt(work, [*options, "update"])


def sources(suite: str, work: Path) -> list[str]:
    """Options that limit apt to another suite, on the mirror of this machine."""
    if not suite:
        return []
    file = work / "sources.list"
    file.write_text(f"deb [signed-by={KEYRING}] {debian_mirror()} {suite} main\n")
    return ["-o", f"Dir::Etc::sourcelist={file}", "-o", "Dir::Etc::sourceparts=/dev/null"]


def debian_mirror() -> str:
    """This machine's mirror of Debian. Raises LookupError."""
    sites = run(["apt-get", "indextargets", "--format", "$(SITE)"]).split()
    mirror = next((site for site in sites if site.rstrip("/").endswith("/debian")), None)
    if mirror is None:
        raise LookupError("this machine has no mirror of Debian in its sources")
    return mirror


def follow(package: str, work: Path, options: list[str]) -> None:
    """Resolve a package for the newest kernel: it depends on the package with the kernel itself."""
    if not package.startswith("linux-image-"):
        return
    for deb in work.rglob(f"{package}_*.deb"):
        depends = run(["dpkg", "--field", str(deb), "Depends"])
        newest = re.search(r"\blinux-image-\d\S*", depends)
        if newest:
            download([newest[0].rstrip(",")], Needs.NOTHING, work, options)


def download(packages: list[str], needs: Needs, work: Path, options: list[str]) -> str:
    """Download packages. Returns apt-get's output, which an option may ask for."""
    if needs is Needs.NOTHING:
        return apt(work, [*options, "download", *packages])
    if needs is Needs.ALL:
        (work / "status").touch()
        options = [*options, "-o", f"Dir::State::status={work / 'status'}"]
    return apt(work, [*options, "install", "--download-only", "--no-install-recommends", "--yes", *packages])


def apt(work: Path, arguments: list[str]) -> str:
    """Run apt-get with its own folders, so that any user may, also while the system's apt runs."""
    cache = work / "cache"
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"Dir::Cache={cache}", "Debug::NoLocking=1", "Acquire::Retries=2", "Acquire::http::Timeout=30"]
    if os.geteuid() == 0:
        options.append("APT::Sandbox::User=root")  # apt's own user could not write here
    return run(
        ["apt-get", "-qq", *(part for option in options for part in ("-o", option)), *arguments], cwd=work
    )


def run(command: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(
        command, cwd=cwd, check=True, timeout=300, stdin=subprocess.DEVNULL, capture_output=True, text=True
    ).stdout


def reason_of(exc: BaseException) -> str:
    return (getattr(exc, "stderr", None) or str(exc)).strip()


def megabytes(size: int | None) -> str:
    """A size of `sizes` as text: ``19 MB``."""
    if size is None:
        return "unknown until Debian's package lists are fetched"
    if not size:
        return "nothing, its package is there"
    return f"{max(1, round(size / 1e6))} MB"


def fetch_for_tests() -> None:
    """List the missing programs of `make test`, with sizes; then fetch them."""
    names = [name for name, one in PROGRAMS.items() if one.target is For.TEST and not is_there(name)]
    if not names:
        return
    print("Fetching for the tests, once, into .tools/ (docs/testing.md):", flush=True)
    for name, size in sizes(names).items():
        print(f"  {name:28} {megabytes(size)}", flush=True)
    for name in names:
        try:
            fetch(name)
        except LookupError as exc:
            print(f"fetch: {exc}; its tests are skipped", file=sys.stderr)
