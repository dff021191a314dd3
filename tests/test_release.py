"""What a release is made of: an sdist, and the wheel that is built from it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

from hatch_build import without_relative_links
from tests.support.processes import run

ROOT = Path(__file__).resolve().parent.parent
TOOLS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def build(source: Path, made: Path, *what: str) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}  # the day is on the man pages
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made)]
    done = run(*command, *what, source, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    (archive,) = dist.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    assert run("tar", "-xf", archive, "-C", folder).returncode == 0
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def metadata(dist: Path) -> Message:
    (wheel,) = dist.glob("*.whl")
    with ZipFile(wheel) as file:
        (name,) = (one for one in file.namelist() if one.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name))


def test_the_sdist_has_all_that_git_has(sdist: Path) -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no git checkout")
    tracked = set(run("git", "-C", ROOT, "ls-files").stdout.splitlines())
    there = {
        name for name in tracked if (ROOT / name).exists()
    }  # less what was removed since the last commit
    assert {"Makefile", "docs/design.md", "deploy/systemd/install.sh", "tests/test_release.py"} <= there
    packed = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    assert there - packed == set()


def test_the_sdist_has_man_pages_for_install_systemd(sdist: Path, tmp_path: Path) -> None:
    variables = [f"DESTDIR={tmp_path}", "BINDIR=/nowhere"]
    done = run("make", "--no-print-directory", "-C", sdist, "install-systemd", *variables)
    assert done.returncode == 0, done.stderr
    for tool in TOOLS:
        assert (tmp_path / f"usr/local/share/man/man1/{tool}.1").is_file()


def test_a_wheel_is_the_same_from_sdist_and_checkout(dist: Path, tmp_path: Path) -> None:
    build(ROOT, tmp_path, "--wheel")
    (wheel,) = dist.glob("*.whl")
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.long
def test_the_quick_tests_pass_from_the_sdist(sdist: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{sdist}:{sdist}/scripts"}  # before the checkout's
    packages = "bench, devtools, rondo_tools, tests"
    ask = f"import {packages}; print(*(one.__file__ for one in ({packages})))"
    found = run(sys.executable, "-P", "-c", ask, cwd=sdist, env=environment).stdout.split()
    assert len(found) == 4
    assert all(Path(file).is_relative_to(sdist) for file in found), found
    command = [sys.executable, "-m", "pytest", "-m", "quick", "-n", "auto", "-p", "no:cacheprovider", "-q"]
    done = run(*command, cwd=sdist, env=environment, timeout_s=None)  # pytest's own bounds it
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_index_takes_it(dist: Path) -> None:
    done = run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(sys.executable, "-m", "check_wheel_contents", *dist.glob("*.whl"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metadata_has_author_license_and_extras(metadata: Message) -> None:
    assert metadata["Author"] == "The rondo authors"
    assert metadata["License-Expression"] == "MIT"
    assert {"soft", "plot", "plot-file", "all", "dev"} == set(metadata.get_all("Provides-Extra", []))
    needed = {line.partition(";")[0] for line in metadata.get_all("Requires-Dist", []) if "'all'" in line}
    assert {re.split(r"\W", one)[0] for one in needed} == {"unicorn", "plotext", "matplotlib"}


def test_the_long_description_has_no_relative_link(metadata: Message) -> None:
    payload = metadata.get_payload(decode=True)
    assert isinstance(payload, bytes)
    text = payload.decode()
    assert text.startswith("# rondo\n")
    shown = re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)]*)\)", shown) + re.findall(
        r"\b(?:src|srcset|href)\s*=\s*[\"']([^\"']*)", shown
    )
    targets += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", shown, re.MULTILINE)
    assert [one for one in targets if not re.match(r"https?://|mailto:|#", one)] == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("see [how](docs/attach.md#pins).", "see how (docs/attach.md)."),
        ("[docs/query.md](docs/query.md)", "docs/query.md"),
        ("[a spec](https://example.org/) [above](#top)", "[a spec](https://example.org/) [above](#top)"),
        ("a\n![The page](docs/page.png)\nb", "a\n\nb"),
        ('<picture>\n  <source srcset="docs/dark.png">\n</picture>\nb', "\nb"),
        ('<img src="docs/page.png" alt="The page">b', "b"),
        ("`[x](y)` and [x](y)", "`[x](y)` and x (y)"),
        ("```\n[x](y)\n```\n", "```\n[x](y)\n```\n"),
    ],
)
def test_links_for_an_index(written: str, shown: str) -> None:
    assert without_relative_links(written) == shown
