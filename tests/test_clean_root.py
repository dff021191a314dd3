"""The wheel in a Debian with nothing but Python: of the two last releases, and of the coming one."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from rondo_tools import __version__
from tests.support import processes
from tests.support.deploy.debian_root import make_root, succeed_in
from tests.support.needs import PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = list(PROJECT["scripts"])
SUITES = ("bookworm", "trixie", "sid")

pytestmark = pytest.mark.long


run = partial(processes.run, timeout_s=2 * PATIENCE_S)


def inside(root: Path, script: str) -> str:
    """What a shell in the root prints, with our commands on its path."""
    return succeed_in(root, "sh", "-euc", f"PATH=/opt/rondo/bin:$PATH; {script}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stderr
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module", params=SUITES)
def root(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A Debian of one suite, with the wheel installed in /opt/rondo."""
    folder = tmp_path_factory.mktemp(request.param) / "root"
    try:
        make_root(folder, request.param, ["python3-venv"])
        print(f"Debian {request.param} has Python {install(wheel, folder)}")
        yield folder
    finally:
        shutil.rmtree(folder.parent)


def install(wheel: Path, root: Path) -> str:
    """Install the wheel for the root's Python, whose version it returns. pip runs outside to download, as the
    root has no certificates."""
    version = inside(root, "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
    if f"Programming Language :: Python :: {version}" not in PROJECT["classifiers"]:
        print("which pyproject.toml does not name among its classifiers")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    done = run(*pip, "--python-version", version, "--dest", root / "wheels", wheel)
    if done.returncode:
        must_have(f"pip finds no wheels for Python {version}: {done.stderr.strip()}")
    pip_install = "pip install --quiet --no-index --find-links /wheels rondo-tools"
    inside(root, f"python3 -m venv /opt/rondo; {pip_install}; pip check")
    return version


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
