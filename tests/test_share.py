"""The folder of units, dashboards and rules, for every kind of installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from rondo_tools.errors import EX_UNAVAILABLE, RondoError
from rondo_tools.share import share_dir

ROOT = Path(__file__).resolve().parent.parent


def put_share(folder: Path) -> Path:
    (folder / "systemd").mkdir(parents=True)
    (folder / "systemd" / "rondo-store.service").touch()
    return folder


def test_a_checkout_has_deploy() -> None:
    assert share_dir() == ROOT / "deploy"


@pytest.mark.parametrize(
    "packages",
    ["lib/python3.11/site-packages", "lib/python3/dist-packages", "lib64/python3.14/site-packages", ""],
)
def test_the_prefix_of_the_package_has_share(tmp_path: Path, packages: str) -> None:
    put_share(tmp_path / "share" / "rondo")
    prefix = tmp_path / "env"
    share = put_share(prefix / "share" / "rondo")
    assert share_dir(prefix / packages / "rondo_tools") == share


def test_another_programs_folder_is_skipped(tmp_path: Path) -> None:
    share = put_share(tmp_path / "share" / "rondo")
    (tmp_path / "env" / "share" / "rondo").mkdir(parents=True)
    (tmp_path / "env" / "deploy").mkdir()
    assert share_dir(tmp_path / "env" / "rondo_tools") == share


def test_an_installation_without_it_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        RondoError, match=r"no share/rondo above .*: rondo was installed without it"
    ) as caught:
        share_dir(tmp_path / "rondo_tools")
    assert caught.value.exit_code == EX_UNAVAILABLE
