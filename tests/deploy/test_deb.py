"""The Debian package, in a fresh root of its distribution."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatch_build import DEPLOY
from tests.support.deploy.debian_root import make_root, run_in, succeed_in
from tests.support.needs import PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parents[2]
TOOLS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
SYSTEM = "/usr/lib/systemd/system"

pytestmark = pytest.mark.long


def build(folder: Path) -> Path:
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "build_deb.py", folder]
    environment = os.environ | {"DPKG_DEB_COMPRESSOR_LEVEL": "1"}  # 7 s of CPU, not 35
    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=4 * PATIENCE_S)
    if built.returncode == 69:
        must_have(built.stderr)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def root(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root of this machine's Debian, with the package's dependencies, and the package file."""
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    place = tmp_path_factory.mktemp("debian") / "root"
    try:
        make_root(place, suite, ["man-db", "systemd"])
        shutil.copy(deb, place / "rondo.deb")
        depends = subprocess.check_output(["dpkg-deb", "--field", deb, "Depends"], text=True).strip()
        succeed_in(place, "apt-get", "-qq", "satisfy", "--yes", depends)
        yield place
    finally:
        shutil.rmtree(place.parent)


def files(root: Path) -> set[str]:
    """All files, without dpkg's records, caches and logs."""
    found = {f"/{path.relative_to(root)}" for path in root.rglob("*")}
    own = (
        "/proc/",
        "/var/lib/dpkg/",
        "/var/cache/",
        "/var/log/",
        "/var/lib/systemd/",
        "/tmp/",
        "/etc/.pwd.lock",
    )
    return {name for name in found if not name.startswith(own)}


def install(root: Path) -> str:
    return succeed_in(root, "dpkg", "--force-confold", "--install", "/rondo.deb")


@pytest.fixture
def installed(root: Path) -> Iterator[Path]:
    install(root)
    yield root
    succeed_in(root, "dpkg", "--purge", "rondo-tools")


def test_the_same_commit_makes_the_same_package(deb: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert again.name == deb.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(deb.read_bytes()).digest()


def test_the_commands_answer_and_have_man_pages(installed: Path) -> None:
    for tool in TOOLS:
        assert succeed_in(installed, tool, "--version", user="nobody:nogroup").startswith(f"{tool} ")
        assert f"{tool} - " in succeed_in(installed, "man", tool)


def test_a_pipe_run_by_nobody(installed: Path) -> None:
    pipe = """
        cd "$(mktemp -d)"
        echo 'jobs 3' | rondo-feed --instance queue --hold 0 | rondo-store store >/dev/null 2>&1
        rondo-query store read jobs --format csv
    """
    row = succeed_in(installed, "sh", "-ec", pipe, user="nobody:nogroup").splitlines()[-1]
    assert row.endswith(",3,jobs,queue")


def test_dashboards_and_rules_are_where_the_store_says(installed: Path) -> None:
    assert succeed_in(installed, "rondo-store", "--share-dir", user="nobody:nogroup") == "/usr/share/rondo\n"
    share = installed / "usr/share/rondo"
    assert {path.name for path in share.iterdir()} == set(DEPLOY)
    assert (share / "grafana/rondo-vmm-dashboard.json").is_file()


def test_units_are_valid_and_disabled(installed: Path) -> None:
    units = sorted(path.name for path in (installed / SYSTEM.lstrip("/")).glob("rondo-*"))
    assert "rondo-store.service" in units
    # systemd is the root's own, so it finds the users, the commands and the units' dependencies.
    verified = succeed_in(installed, "systemd-analyze", "verify", *(f"{SYSTEM}/{name}" for name in units))
    assert verified == ""
    states = run_in(installed, "systemctl", "is-enabled", *units).stdout.split()
    assert len(states) == len(units)
    assert set(states) <= {"disabled", "static", "indirect"}
    assert succeed_in(installed, "getent", "passwd", "rondo", "rondo-attach", "rondo-serve").count("\n") == 3


def test_an_upgrade_keeps_configuration_and_data(installed: Path) -> None:
    config, own = installed / "etc/rondo/push.env", installed / "etc/rondo/vmm/web.conf"
    config.write_text("RONDO_REMOTE_WRITE=http://elsewhere/\n")
    own.write_text("")
    data = installed / "var/lib/rondo/vmm_metrics"
    data.mkdir()
    succeed_in(installed, "systemctl", "enable", "rondo-store.socket", "rondo-feed@node.service")
    install(installed)
    assert config.read_text() == "RONDO_REMOTE_WRITE=http://elsewhere/\n"
    assert own.exists()
    assert data.exists()
    assert succeed_in(installed, "systemctl", "is-enabled", "rondo-store.socket").strip() == "enabled"
    data.rmdir()
    own.unlink()


def test_a_purge_leaves_only_data(root: Path) -> None:
    before = files(root)
    install(root)
    kept = {"/var/lib/rondo", "/var/lib/rondo/data", "/etc/rondo", "/etc/rondo/token"}
    (root / "var/lib/rondo/data").write_text("metrics")
    (root / "etc/rondo/token").write_text("secret")
    succeed_in(root, "systemctl", "enable", "rondo-store.socket", "rondo-feed@node.service")
    assert list((root / "usr/lib/rondo").rglob("*.pyc"))  # compiled, once for all users
    succeed_in(root, "rondo-query", "--version")

    succeed_in(root, "dpkg", "--remove", "rondo-tools")
    left = files(root) - before
    assert "/etc/rondo/push.env" in left
    assert {name for name in left if not name.startswith(("/etc/rondo", "/var/lib/rondo"))} <= {"/run/rondo"}

    log = succeed_in(root, "dpkg", "--purge", "rondo-tools")
    left = files(root) - before
    for folder in ("var/lib/rondo", "etc/rondo"):
        shutil.rmtree(root / folder)
    assert left == kept
    for folder in ("/var/lib/rondo", "/etc/rondo"):
        assert f"rondo-tools: {folder} has files that are not the package's" in log


def test_where_systemd_runs_units_are_restarted_and_stopped(root: Path) -> None:
    """With a systemctl that records its calls."""
    asked, systemctl = root / "tmp/asked", root / "usr/local/bin/systemctl"
    systemctl.write_text('#!/bin/sh\necho "$@" >>/tmp/asked\n')
    systemctl.chmod(0o755)
    (root / "run/systemd/system").mkdir(parents=True)
    try:
        install(root)
        assert asked.read_text() == "daemon-reload\n"
        asked.unlink()
        install(root)
        restarted = asked.read_text().splitlines()[-1].split()
        assert restarted[0] == "try-restart"
        assert "rondo-store.service" in restarted
        assert not any("vmm" in unit for unit in restarted)  # VMs continue
        asked.unlink()
        assert "stays" not in succeed_in(root, "dpkg", "--purge", "rondo-tools")
        first, then, disable, *rest = (line.split() for line in asked.read_text().splitlines())
        assert {"stop", "rondo-vmm@*.service"} <= set(first)
        assert {"stop", "rondo-store.service", "rondo-store.socket"} <= set(then)
        assert {"disable", "rondo-store.socket", "rondo-feed@.service"} <= set(disable)
        assert all(line == ["daemon-reload"] for line in rest)
    finally:
        shutil.rmtree(root / "run/systemd/system")
        systemctl.unlink()


def test_lintian_finds_nothing(root: Path) -> None:
    succeed_in(root, "apt-get", "-qq", "install", "--yes", "--no-install-recommends", "lintian")
    linted = run_in(root, "lintian", "--fail-on", "error,warning", "/rondo.deb", user="nobody:nogroup")
    assert (linted.returncode, linted.stdout) == (0, "")
