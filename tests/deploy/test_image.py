"""The image of deploy/Dockerfile, built by buildah on Debian, because there is no registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devtools.programs import Needs, folder
from tests.support.deploy.debian_root import make_root
from tests.support.needs import PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TOOLS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
SUITES = {"3.11": "bookworm", "3.13": "trixie"}

pytestmark = pytest.mark.long

# buildah executes itself without LD_LIBRARY_PATH: its libraries come by a cache of ld.so, in a mount
# namespace of its own.
BUILDAH = """
mount --bind "$1" /etc/ld.so.cache
shift
exec "$@"
"""

Buildah = Callable[..., str]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Runs buildah with its data in a folder, and without a registry."""
    if os.geteuid() != 0:
        must_have("buildah's isolation by chroot needs root")
    try:
        unpacked = folder("buildah", Needs.MISSING)
    except LookupError as exc:
        must_have(str(exc))
    place = tmp_path_factory.mktemp("buildah")
    policy = place / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (place / "registries.conf").touch()
    system = Path("/etc/ld.so.conf").read_text()
    (place / "ld.conf").write_text(f"{unpacked}/usr/lib/x86_64-linux-gnu\n{system}")
    subprocess.run(["ldconfig", "-X", "-f", place / "ld.conf", "-C", place / "ld.cache"], check=True)
    environment = os.environ | {
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_REGISTRIES_CONF": str(place / "registries.conf"),
        "HOME": str(place),
        "TMPDIR": str(place),
    }
    command: list[str | Path] = ["unshare", "--mount", "sh", "-ec", BUILDAH, "sh", place / "ld.cache"]
    command += [unpacked / "usr/bin/buildah", "--storage-driver", "vfs"]
    command += ["--root", place / "images", "--runroot", place / "run"]

    def run(*arguments: str | Path) -> str:
        ran = subprocess.run(
            [*command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_S,
        )
        assert ran.returncode == 0, f"{arguments}: {ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout.strip()

    yield run
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container of the Dockerfile's image."""
    (base,) = set(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE))
    named = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert named, f"no root of Debian stands for {base}"
    archive = tmp_path_factory.mktemp("base") / "root.tar"
    try:
        make_root(archive, SUITES[named[1]], ["ca-certificates", "python3", "python3-venv"])
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, archive, "/")
    finally:
        archive.unlink(missing_ok=True)
    assert buildah("run", container, "python3", "--version").startswith(f"Python {named[1]}.")
    buildah("run", container, "ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")  # as in python's image
    buildah("commit", "--quiet", container, f"docker.io/library/{base}")
    # The certificates of this machine: its way to the Python Package Index may be through a proxy.
    certificates = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    build = ["build", "--quiet", "--pull=never", "--layers=false", *certificates, "--file", DOCKERFILE]
    buildah(*build, "--tag", "rondo:test", ROOT)
    return buildah("from", "--pull=never", "localhost/rondo:test")


def test_the_commands_run_as_the_user_of_the_image(image: str, buildah: Buildah) -> None:
    assert buildah("run", image, "id", "-u") == "10001"
    for tool in TOOLS:
        assert buildah("run", image, tool, "--version").startswith(f"{tool} ")


def test_the_default_command_is_the_help_of_the_store(image: str, buildah: Buildah) -> None:
    command = json.loads(buildah("inspect", image))["OCIv1"]["config"]["Cmd"]
    assert buildah("run", image, *command).startswith("usage: rondo-store ")


def test_a_pipe_in_it(image: str, buildah: Buildah) -> None:
    pipe = """
        cd "$(mktemp -d)"
        echo jobs 3 | rondo-feed --instance queue --hold 0 | rondo-store store >/dev/null 2>&1
        rondo-query store read jobs --format csv
    """
    row = buildah("run", image, "sh", "-ec", pipe).splitlines()[-1]
    assert row.endswith(",3,jobs,queue")


def test_the_image_has_nothing_of_the_build(image: str, buildah: Buildah) -> None:
    assert buildah("run", image, "sh", "-c", "ls -d /src /opt/* 2>/dev/null; true") == "/opt/rondo"
