"""The initramfs writer: busybox unpacks what was packed, and the bytes follow from the content alone."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from devtools.guest.cpio import Archive
from tests.support.needs import PATIENCE_S


def packed(root: Path) -> bytes:
    out = io.BytesIO()
    archive = Archive(out)
    archive.tree(root)
    archive.close()
    return out.getvalue()


def plant(root: Path, names: list[str]) -> None:
    """A small tree, made in the order of `names`."""
    (root / "bin").mkdir(parents=True)
    for name in names:
        (root / name).write_bytes(name.encode() * 100)
    (root / "bin" / "run").chmod(0o750)
    (root / "sh").symlink_to("bin/run")
    (root / "empty").mkdir()


def test_busybox_unpacks_an_archive(program: Callable[[str], Path], tmp_path: Path) -> None:
    plant(tmp_path / "there", ["bin/run", "a", "bin/odd name"])
    data = packed(tmp_path / "there")
    back = tmp_path / "back"
    back.mkdir()
    busybox = program("busybox")
    subprocess.run(
        [busybox, "cpio", "-id"], input=data, cwd=back, check=True, capture_output=True, timeout=PATIENCE_S
    )
    found = {str(path.relative_to(back)): path for path in back.rglob("*")}
    assert found.keys() == {"a", "bin", "bin/odd name", "bin/run", "empty", "sh"}
    assert found["bin/odd name"].read_bytes() == b"bin/odd name" * 100
    assert found["sh"].readlink() == Path("bin/run")
    assert found["empty"].is_dir()
    assert os.access(found["bin/run"], os.X_OK)
    assert not found["a"].stat().st_mode & 0o111


def test_owner_time_and_order_do_not_reach_the_bytes(tmp_path: Path) -> None:
    plant(tmp_path / "one", ["a", "b", "bin/run"])
    plant(tmp_path / "two", ["bin/run", "b", "a"])
    os.utime(tmp_path / "two" / "a", (1, 1))
    (tmp_path / "two" / "b").chmod(0o600)  # as another umask would have made it
    assert packed(tmp_path / "one") == packed(tmp_path / "two")
    (tmp_path / "two" / "b").chmod(0o700)
    assert packed(tmp_path / "one") != packed(tmp_path / "two")


def test_unwanted_files_are_not_packed(tmp_path: Path) -> None:
    plant(tmp_path, ["a", "bin/run"])
    out = io.BytesIO()
    Archive(out).tree(tmp_path, "root/", keep=lambda path: path.parts[0] != "bin")
    assert b"root/a\0" in out.getvalue()
    assert b"bin\0" not in out.getvalue()


def test_archives_may_stand_one_behind_another(program: Callable[[str], Path]) -> None:
    out = io.BytesIO()
    for name in ("first", "second"):
        archive = Archive(out)
        archive.file(name, b"x")
        archive.close()
        assert out.tell() % 512 == 0
    # The kernel reads on behind a trailer; cpio stops, and then finds the second where the first ends.
    half = out.getvalue()[len(out.getvalue()) // 2 :]
    assert half.startswith(b"070701")
    listed = subprocess.run(
        [program("busybox"), "cpio", "-t"], input=half, check=True, capture_output=True, timeout=PATIENCE_S
    )
    assert listed.stdout == b"second\n"
