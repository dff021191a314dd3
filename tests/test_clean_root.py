"""The wheel in a Debian with nothing but Python: of the two last releases, and of the coming one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devtools.programs import debian_mirror
from rondo_tools import __version__
from tests.support.needs import PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = list(PROJECT["scripts"])
SUITES = ("bookworm", "trixie", "sid")

pytestmark = pytest.mark.long


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 2 * PATIENCE_S} | options
    return subprocess.run(command, **options)  # type: ignore[call-overload,no-any-return]


def inside(root: Path, script: str) -> str:
    """What a shell in the root prints."""
    environment = {"PATH": "/opt/rondo/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    done = run("chroot", root, "sh", "-euc", script, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stderr
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module", params=SUITES)
def root(
    request: pytest.FixtureRequest,
    program: Callable[[str], Path],
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A Debian of one suite, with the wheel installed in /opt/rondo."""
    if os.geteuid() != 0:
        must_have("only root may make a root")
    folder = tmp_path_factory.mktemp(request.param) / "root"
    try:
        make = [program("mmdebstrap"), "--mode=root", "--variant=minbase", "--include=python3-venv"]
        make += ["--aptopt=Acquire::Check-Valid-Until false"]  # a mirror may be some weeks behind
        made = run(*make, request.param, folder, debian_mirror())
        if made.returncode:
            must_have(f"mmdebstrap makes no Debian {request.param} here: {made.stderr.strip()}")
        install(wheel, folder)
        yield folder
    except LookupError as exc:
        must_have(str(exc))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(wheel: Path, root: Path) -> None:
    """Nothing is downloaded in the root: it knows no registry but that of its makers."""
    version = inside(root, "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
    print(f"{root.parent.name} has Python {version}")
    if f"Programming Language :: Python :: {version}" not in PROJECT["classifiers"]:
        print("which pyproject.toml does not name among its classifiers")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    done = run(*pip, "--python-version", version, "--dest", root / "wheels", wheel)
    if done.returncode:
        must_have(f"pip finds no wheels for Python {version}: {done.stderr.strip()}")
    pip_install = "pip install --quiet --no-index --find-links /wheels rondo-tools"
    inside(root, f"python3 -m venv /opt/rondo; {pip_install}; pip check")


def test_the_wheel_works_in_a_clean_root(root: Path) -> None:
    versions = inside(root, "; ".join(f"{tool} --version" for tool in TOOLS))
    assert versions.splitlines() == [f"{tool} {__version__}" for tool in TOOLS]
    inside(root, "echo jobs 3 | rondo-feed --instance queue --hold 0 | rondo-store /tmp/vmm_metrics")
    rows = inside(root, "rondo-query /tmp/vmm_metrics read jobs --format csv")
    assert rows.endswith(",3,jobs,queue\n"), rows
    for tool in TOOLS:
        assert (root / f"opt/rondo/share/man/man1/{tool}.1").is_file()
    inside(root, 'sh "$(rondo-store --share-dir)/systemd/install.sh" install')
    unit = (root / "usr/local/lib/systemd/system/rondo-store.service").read_text()
    assert "\nExecStart=/opt/rondo/bin/rondo-store " in unit
