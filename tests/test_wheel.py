"""What strangers install: a wheel, with all commands, their man pages, and completion that completes."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest

from build_share import COMPLETION
from devtools.programs import root_of
from hatch_build import DEPLOY
from rondo_tools import __version__
from tests.support.needs import PATIENCE_S, must_have
from tests.support.processes import run

ROOT = Path(__file__).resolve().parent.parent
TOOLS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
PAGES = [f"man/man1/{tool}.1" for tool in TOOLS]
PAGES += [path.format(tool=tool) for path in COMPLETION.values() for tool in TOOLS]

Program = Callable[[str], Path]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of what the Dockerfile takes along, and of nothing that lies about in the checkout."""
    source = tmp_path_factory.mktemp("source")
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()
    for name in re.findall(r"^!(.+)$", ignore, re.MULTILINE):
        (source / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    # Left by a build of an earlier version.
    stale = source / "build" / "lib" / "rondo_tools" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    built = run(*pip, "--wheel-dir", source / "dist", source)
    assert built.returncode == 0, built.stderr
    (found,) = (source / "dist").iterdir()
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and without what it depends on."""
    environment = tmp_path_factory.mktemp("installed") / "env"
    venv.create(environment, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    done = run(*pip, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    return environment


@pytest.fixture(scope="module")
def installed(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with what it depends on."""
    environment = tmp_path_factory.mktemp("complete") / "env"
    shutil.copytree(bare, environment, symlinks=True)
    for script in (environment / "bin").glob("rondo-*"):
        script.write_text(script.read_text().replace(str(bare), str(environment)))
    (packages,) = environment.glob("lib/*/site-packages")
    # What is named by a .pth file is searched last, and .pth files in it do not count.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


@pytest.fixture(scope="module")
def share(bare: Path) -> Path:
    return bare / "share"


def test_the_wheel_has_the_package_of_the_source_and_no_more(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if name.startswith("rondo_tools/")}
    package = [path for path in (ROOT / "rondo_tools").rglob("*") if path.is_file()]
    assert found == {str(path.relative_to(ROOT)) for path in package if "__pycache__" not in path.parts}
    assert {"rondo_tools/py.typed", "rondo_tools/prom/proto/remote_write_v2.proto"} <= found


def test_a_command_names_missing_packages(bare: Path) -> None:
    for tool in TOOLS:
        done = run(bare / "bin" / tool, "--version")
        assert (done.returncode, done.stdout) == (69, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{tool}: the Python package argh is missing: ")


def test_the_commands_are_the_wheel_s(installed: Path, tmp_path: Path) -> None:
    for tool in TOOLS:
        done = run(installed / "bin" / tool, "--version", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{tool} {__version__}\n", "")
    where = "import rondo_tools; print(rondo_tools.__file__)"
    assert str(installed) in run(installed / "bin" / "python", "-c", where, cwd=tmp_path).stdout


def test_a_life_from_the_guest_to_the_reader(installed: Path, tmp_path: Path) -> None:
    """With the guest that is package data, without KVM or with it."""
    binary = installed / "bin"
    pipe = f"{binary}/rondo-vmm --duration 1s --instance vm-1 | {binary}/rondo-store vmm_metrics"
    stored = run("sh", "-c", pipe, cwd=tmp_path)
    assert "ended by poweroff" in stored.stderr, stored.stderr
    listed = run(binary / "rondo-query", "list", "--format", "csv", cwd=tmp_path)
    assert "vm-1," in listed.stdout
    behind = run(binary / "rondo-push", "--status", cwd=tmp_path)
    assert "vm-1" in behind.stdout, behind.stderr


def test_packages_for_man_pages_are_not_needed_at_run_time() -> None:
    for path in (ROOT / "rondo_tools").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (shtab|argparse_manpage)", path.read_text(), re.MULTILINE)


def test_share_has_deploys_files_for_a_host(share: Path) -> None:
    deploy = files(ROOT / "deploy")
    found = files(share / "rondo")
    assert found == {name: data for name, data in deploy.items() if name.partition("/")[0] in DEPLOY}
    assert {"systemd/rondo-store.service", "systemd/sysusers.conf", "systemd/tmpfiles.conf"} <= set(found)
    assert {"rules/rondo.yml", "grafana/rondo-vmm-dashboard.json"} <= set(found)


@pytest.mark.parametrize("way", ["--prefix", "--target", "--user"])
def test_share_is_found_wherever_pip_installs(wheel: Path, tmp_path: Path, way: str) -> None:
    python = sys._base_executable  # type: ignore[attr-defined]  # for in an environment there is no --user
    environment = {**os.environ, "PYTHONUSERBASE": str(tmp_path), "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    options = [way] if way == "--user" else [way, tmp_path]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    done = run(*pip, "--no-compile", "--no-warn-script-location", *options, wheel, env=environment)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.rglob("rondo_tools/__init__.py")
    if way != "--user":
        environment["PYTHONPATH"] = str(package.parent.parent)
    ask = "from rondo_tools.share import share_dir; print(share_dir())"
    assert run(python, "-c", ask, cwd=tmp_path, env=environment).stdout == f"{tmp_path}/share/rondo\n"


def test_an_installed_rondo_installs_its_units(installed: Path, tmp_path: Path) -> None:
    asked = run(installed / "bin" / "rondo-store", "--share-dir", cwd=tmp_path)
    assert (asked.returncode, asked.stdout) == (0, f"{installed}/share/rondo\n")
    script = Path(asked.stdout.strip()) / "systemd" / "install.sh"
    environment = {"PATH": os.environ["PATH"], "DESTDIR": str(tmp_path)}
    done = run("sh", script, "install", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    unit = tmp_path / "usr/local/lib/systemd/system/rondo-store.service"
    assert f"\nExecStart={installed}/bin/rondo-store " in unit.read_text()
    assert (tmp_path / "usr/local/share/man/man1/rondo-store.1").is_file()
    assert run("sh", script, "uninstall", cwd=tmp_path, env=environment).returncode == 0
    assert not [name for name in files(tmp_path) if not name.startswith("etc/rondo/")]


def test_each_tool_has_its_pages(share: Path) -> None:
    assert {name for name in files(share) if not name.startswith("rondo/")} == set(PAGES)
    page = (share / "man/man1/rondo-query.1").read_text()
    listed = run(sys.executable, ROOT / "bin" / "rondo-query", "--help").stdout
    commands = re.findall(r"^    (\w+) +\S", listed, re.MULTILINE)
    assert len(commands) > 7
    assert re.findall(r"^\.SS \\fBrondo\\-query (\w+)\\fR", page, re.MULTILINE) == commands


@pytest.mark.parametrize("tool", TOOLS)
def test_mandoc_finds_no_fault_with_a_page(share: Path, program: Program, tool: str) -> None:
    done = run(program("mandoc"), "-T", "lint", "-W", "warning", share / f"man/man1/{tool}.1")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("tool", TOOLS)
def test_groff_finds_no_fault_with_a_page(share: Path, tool: str) -> None:
    if not shutil.which("groff"):
        pytest.skip("no groff on PATH")
    done = run("groff", "-ww", "-man", "-T", "ascii", "-P", "-c", share / f"man/man1/{tool}.1")
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(".\b", "", done.stdout)  # bold is a letter over itself
    parser = run(sys.executable, ROOT / "bin" / tool, "--help").stdout
    flags = set(re.findall(r"^  (?:-\w(?: \w+)?, )?(--[a-z-]+)", parser, re.MULTILINE)) - {"--help"}
    assert {"--quiet", "--version"} <= flags
    for words in (*flags, "NAME", "SYNOPSIS", "EXIT STATUS", "SEE ALSO", "rondo " + __version__):
        assert words in text
    # An example is to be typed as it stands.
    for example in re.findall(rf"^  ({tool} .*)$", parser, re.MULTILINE):
        assert example in text


COMPLETED = [
    (["rondo-query", "re"], {"read"}),
    (["rondo-query", "read", "--ra"], {"--range", "--rate"}),
    (["rondo-query", "read", "--format", ""], {"table", "csv", "json"}),
    (["rondo-query", "check", "vm"], {"vmm_metrics"}),
    (["rondo-attach", ""], {"list"}),
    (["rondo-attach", "list", "--format", "j"], {"json"}),
    (["rondo-push", "--protocol", ""], {"1.0", "2.0"}),
    (["rondo-push", "--ca-file", "vml"], {"vmlinuz"}),
    (["rondo-store", "vm"], {"vmm_metrics"}),
    (["rondo-vmm", "--accel", ""], {"kvm", "soft", "auto"}),
    (["rondo-vmm", "--kernel", "vml"], {"vmlinuz"}),
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder to complete names in."""
    (tmp_path / "vmm_metrics").mkdir()
    (tmp_path / "vmlinuz").touch()
    return tmp_path


@pytest.mark.parametrize(("words", "completed"), [*COMPLETED, (["rondo-query", "s", "pl"], {"plot"})])
def test_bash_completes(share: Path, here: Path, words: list[str], completed: set[str]) -> None:
    script = """
source "$1" && shift
registered=$(complete -p "$1") && function=${registered#*-F } && function=${function%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$function "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    file = share / f"bash-completion/completions/{words[0]}"
    done = run("bash", "-c", script, "bash", file, *words, cwd=here)
    assert (set(done.stdout.splitlines()), done.stderr) == (completed, "")


@pytest.mark.parametrize(("words", "completed"), COMPLETED)
def test_fish_completes(
    share: Path, here: Path, program: Program, words: list[str], completed: set[str]
) -> None:
    fish = program("fish")
    functions = root_of("fish") / "usr/share/fish/functions"  # where it does not look by itself
    script = f"set -p fish_function_path {functions}; source $argv[1]; complete -C $argv[2]"
    file = share / f"fish/vendor_completions.d/{words[0]}.fish"
    environment = {**os.environ, "HOME": str(here)}
    done = run(fish, "--no-config", "-c", script, file, " ".join(words), cwd=here, env=environment)
    found = {line.split("\t")[0].rstrip("/") for line in done.stdout.splitlines()}
    assert done.stderr == ""
    assert found >= completed
    assert not words[-1] or found == completed


class Zsh:
    """An interactive zsh in a terminal."""

    def __init__(self, zsh: Path, folder: Path) -> None:
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.chdir(folder)
            environment = {**os.environ, "TERM": "dumb", "HOME": str(folder)}
            os.execve(zsh, [str(zsh), "-f", "-i"], environment)

    def type(self, text: str, until: str) -> None:
        """Type, and wait for what the terminal shows then."""
        os.write(self._fd, text.encode())
        shown, deadline = "", time.monotonic() + PATIENCE_S
        while until not in shown:
            assert select.select([self._fd], [], [], deadline - time.monotonic())[0], shown
            shown += os.read(self._fd, 65_536).decode(errors="replace")

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@contextmanager
def interactive(zsh: Path, folder: Path) -> Iterator[Zsh]:
    shell = Zsh(zsh, folder)
    try:
        yield shell
    finally:
        shell.close()


def test_zsh_completes(share: Path, here: Path, program: Program) -> None:
    zsh, root = program("zsh"), root_of("zsh")
    modules = next(root.glob("usr/lib/*/zsh/*"), None)
    if modules is None:
        must_have("zsh's modules did not come with it")
    with interactive(zsh, here) as shell:
        functions = f"{root}/usr/share/zsh/functions"
        shell.type(f"module_path=({modules}); PS1=; echo modu''les\n", "modules")
        shell.type(
            f"fpath=({share}/zsh/site-functions {functions} {functions}/**/*(/)); echo pla''ces\n", "places"
        )
        shell.type("autoload -Uz compinit; compinit -D -u; echo rea''dy\n", "ready")
        shell.type("rondo-query re\t", "rondo-query read ")
        shell.type("--ran\t", "--range ")
        shell.type("1h --format c\t", "csv ")
        shell.type("vm\t", "vmm_metrics")
        shell.type("\x15rondo-push --ca-file vml\t", "vmlinuz ")
        shell.type("\x15rondo-vmm --accel so\t", "soft ")


def make(target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    return run("make", "--no-print-directory", "-C", ROOT, target, *variables)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_install_systemd_brings_the_pages_of_the_wheel(share: Path, bare: Path, tmp_path: Path) -> None:
    links = tmp_path / "bin"
    links.mkdir()
    for tool in TOOLS:  # as deploy/README.md has them
        (links / tool).symlink_to(bare / "bin" / tool)
    for number, variables in enumerate(
        ([f"BINDIR={links}", "SHARE=/nowhere"], ["BINDIR=/nowhere", f"SHARE={share}"])
    ):
        tree = tmp_path / f"tree-{number}"
        done = make("install-systemd", f"DESTDIR={tree}", *variables)
        assert done.returncode == 0, done.stderr
        assert files(tree / "usr/local/share") == {page: (share / page).read_bytes() for page in PAGES}
        done = make("uninstall-systemd", f"DESTDIR={tree}", *variables)
        assert done.returncode == 0, done.stderr
        assert files(tree / "usr/local/share") == {}


def test_install_systemd_leaves_the_wheel_s_own_pages_alone(share: Path, bare: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(bare, tree / "usr", symlinks=True)
    for target in ("install-systemd", "uninstall-systemd"):
        done = make(target, f"DESTDIR={tree}", "PREFIX=/usr", "SHARE=/nowhere")
        assert done.returncode == 0, done.stderr
        assert "/share/" not in done.stdout
        assert files(tree / "usr/share") == files(share)


def test_install_systemd_warns_of_missing_man_pages(tmp_path: Path) -> None:
    done = make("install-systemd", f"DESTDIR={tmp_path}", "BINDIR=/nowhere", "SHARE=/nowhere")
    assert done.returncode == 0
    assert "No man pages and completion" in done.stdout
    assert not (tmp_path / "usr/local/share").exists()
