"""The disk: whole sectors, one VM at a time, and errors with a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rondo_tools.errors import RondoError
from rondo_tools.vmm.devices.virtio.disk import SECTOR, open_disk, temporary_disk


def make(path: Path, size: int) -> str:
    with path.open("wb") as file:
        file.truncate(size)
    return str(path)


def test_sectors_are_at_their_offsets(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", 4 * SECTOR)
    with open_disk(path) as disk:
        assert (disk.sectors, disk.read_only) == (4, False)
        disk.write_from([memoryview(b"a" * 256), memoryview(b"b" * 256)], 2)
        into = bytearray(2 * SECTOR)
        disk.read_into([memoryview(into)[:1000], memoryview(into)[1000:]], 2)
        disk.flush()
    assert into == b"a" * 256 + b"b" * 256 + bytes(512)
    assert (tmp_path / "disk").read_bytes() == bytes(1024) + into


def test_a_file_truncated_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", 4 * SECTOR)
    with open_disk(path) as disk:
        os.truncate(path, SECTOR)
        with pytest.raises(OSError, match="only 0 of 512"):
            disk.read_into([memoryview(bytearray(SECTOR))], 2)


@pytest.mark.parametrize(
    ("size", "message", "status"),
    [(0, "whole sectors", 64), (700, "whole sectors", 64), (None, "No such file", 69)],
)
def test_a_file_that_cannot_be_a_disk_is_refused(
    tmp_path: Path, size: int | None, message: str, status: int
) -> None:
    path = str(tmp_path / "disk") if size is None else make(tmp_path / "disk", size)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RondoError, match=message) as caught:
        open_disk(path)
    assert caught.value.exit_code == status
    assert str(caught.value).startswith(f"--disk {path}: ")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("path", ["/dev/null", "."])
def test_a_device_or_a_folder_is_refused(path: str) -> None:
    with pytest.raises(RondoError, match="--disk"):
        open_disk(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_pipe_is_refused_without_waiting(tmp_path: Path, read_only: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RondoError, match="a FIFO; name a regular file or a block device"):
        open_disk(str(tmp_path / "pipe"), read_only=read_only)


HOLD = """
import sys
from rondo_tools.vmm.devices.virtio.disk import open_disk
disk = open_disk(sys.argv[1])
print("held", flush=True)
input()
"""


def test_two_vms_never_share_a_disk(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", SECTOR)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for read_only in (False, True):
            with pytest.raises(RondoError, match="in use by another VM") as caught:
                open_disk(path, read_only=read_only)
            assert caught.value.exit_code == 69
        other.kill()  # even so the lock goes with it
    open_disk(path).close()


def test_read_only_disks_can_be_shared(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", SECTOR)
    with open_disk(path, read_only=True) as one, open_disk(path, read_only=True) as two:
        assert one.read_only
        assert two.read_only
        with pytest.raises(RondoError, match="in use"):
            open_disk(path)
        with pytest.raises(OSError):
            one.write_from([memoryview(bytes(SECTOR))], 0)


def test_a_temporary_disk_is_sparse_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_disk(1 << 30) as disk:
        assert list(tmp_path.iterdir()) == []
        assert disk.sectors == 1 << 21
        assert os.fstat(disk._fd).st_blocks == 0
        disk.write_from([memoryview(b"x" * SECTOR)], disk.sectors - 1)
    disk.close()  # once more does nothing
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_disk_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(RondoError, match="temporary disk") as caught:
        temporary_disk(1 << 20)
    assert caught.value.exit_code == 69
    with pytest.raises(RondoError, match="whole sectors"):
        temporary_disk(700)
