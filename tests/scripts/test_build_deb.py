"""What the build of the Debian package decides before it builds; tests/deploy/test_deb.py has the package."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import pytest

import build_deb


@pytest.mark.parametrize(
    ("version", "debian"),
    [("0.1.0", "0.1.0"), ("0.2.0rc1", "0.2.0~rc1"), ("0.2.0.dev3", "0.2.0~dev3"), ("1.0b2", "1.0~b2")],
)
def test_prereleases_sort_before_their_release_in_dpkg(version: str, debian: str) -> None:
    assert build_deb.debian_version(version) == debian


def test_the_package_is_for_the_distribution_s_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python3"
    python.symlink_to("/opt/python3.11")
    assert build_deb.main(["--python", str(python), str(tmp_path)]) == 69
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"build_deb.py: {python} is not the distribution's Python")
    assert "--python" in line


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        (
            [("License", "MIT License\n\nPermission is"), ("Classifier", "License :: OSI Approved :: MIT")],
            "MIT",
        ),
        ([("License-Expression", "BSD-3-Clause"), ("License", "a long text")], "BSD-3-Clause"),
        ([("License", "MPL-2.0")], "MPL-2.0"),
    ],
)
def test_licences_are_named_by_a_line(headers: list[tuple[str, str]], named: str) -> None:
    about = Message()
    for name, value in headers:
        about[name] = value.replace("\n", " ")
    assert build_deb.license_of(about) == named
