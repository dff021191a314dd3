"""Loading Linux: addresses, the zero page, and files that do not fit."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from rondo_tools.errors import VmError
from rondo_tools.vmm import layout
from rondo_tools.vmm.boot import linux
from rondo_tools.vmm.memory import GuestMemory
from tests.support.vmm.kernels import ENTRY, bzimage, vmlinux

SIZE = 64 << 20
ZERO_PAGE = layout.PC_BOOT_PARAMS


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(SIZE) as memory:
        yield memory


def guest(
    folder: Path, kernel: bytes, initramfs: bytes | None = None, command_line: str = "quiet"
) -> linux.Guest:
    (folder / "kernel").write_bytes(kernel)
    if initramfs is not None:
        (folder / "initramfs").write_bytes(initramfs)
    path = None if initramfs is None else str(folder / "initramfs")
    return linux.read(str(folder / "kernel"), path, command_line)


def field(memory: GuestMemory, form: str, offset: int) -> int:
    return int(memory.unpack(struct.Struct(form), ZERO_PAGE + offset)[0])


def test_the_zero_page_has_all_addresses(memory: GuestMemory, tmp_path: Path) -> None:
    archive = gzip.compress(b"archive" * 1000)
    entry = linux.load(memory, guest(tmp_path, bzimage("f4"), archive, "console=ttyS0 x"), b"tables")
    assert entry.rip == layout.PC_HIGH + 0x200
    assert memory.read(entry.rip, 1) == b"\xf4"
    assert entry.rsi == ZERO_PAGE
    assert memory.read(ZERO_PAGE + 0x202, 4) == b"HdrS"
    assert field(memory, "<H", 0x206) == 0x20F
    assert field(memory, "<B", 0x210) == 0xFF
    assert field(memory, "<B", 0x211) & 1
    at, size = field(memory, "<I", 0x218), field(memory, "<I", 0x21C)
    assert (memory.read(at, size), at % 4096) == (archive, 0)
    assert SIZE - 4096 < at + size <= SIZE, "as high as it may be"
    words = memory.read(field(memory, "<I", 0x228), 32)
    assert words.split(b"\0")[0] == b"console=ttyS0 x"
    rsdp = field(memory, "<Q", 0x70)
    assert memory.read(rsdp, 6) == b"tables"
    assert memory.read(layout.PC_RESET, 4) == bytes.fromhex("b0fee664")


def test_a_vmlinux_gets_a_default_header(memory: GuestMemory, tmp_path: Path) -> None:
    entry = linux.load(memory, guest(tmp_path, vmlinux("90f4")), b"")
    assert (entry.rip, memory.read(ENTRY, 2)) == (ENTRY, b"\x90\xf4")
    assert memory.read(ZERO_PAGE + 0x202, 4) == b"HdrS"
    assert field(memory, "<H", 0x1FE) == 0xAA55
    assert (field(memory, "<I", 0x218), field(memory, "<I", 0x21C)) == (0, 0)


def test_the_memory_map_reserves_the_tables(memory: GuestMemory, tmp_path: Path) -> None:
    linux.load(memory, guest(tmp_path, bzimage("f4")), b"")
    entries = [
        memory.unpack(struct.Struct("<QQI"), ZERO_PAGE + 0x2D0 + 20 * number)
        for number in range(field(memory, "<B", 0x1E8))
    ]
    assert sum(size for _, size, _ in entries) == SIZE
    usable = [(start, start + size) for start, size, kind in entries if kind == 1]
    assert usable == [(0, layout.PC_LOW_END), (layout.PC_HIGH, SIZE)]
    assert all(kind in (1, 2) for _, _, kind in entries)


def test_the_page_tables_identity_map_four_gigabytes(memory: GuestMemory, tmp_path: Path) -> None:
    entry = linux.load(memory, guest(tmp_path, bzimage("f4")), b"")

    def translate(address: int) -> int:
        table = entry.cr3
        for shift in (39, 30):
            (found,) = memory.unpack(struct.Struct("<Q"), table + 8 * (address >> shift & 511))
            assert found & 3 == 3
            table = found & ~0xFFF
        (found,) = memory.unpack(struct.Struct("<Q"), table + 8 * (address >> 21 & 511))
        assert found & 0x83 == 0x83
        return int(found & ~0x1F_FFFF) + (address & 0x1F_FFFF)

    for address in (0, 0x1234, 2 << 20, ENTRY + 5, 1 << 30, 0xD000_0000, 0xFFFF_FFFF):
        assert translate(address) == address


def test_the_initramfs_stays_where_the_kernel_can_reach(memory: GuestMemory, tmp_path: Path) -> None:
    kernel = bzimage("f4", initrd_max=(48 << 20) - 1)
    linux.load(memory, guest(tmp_path, kernel, b"070701" + bytes(10000)), b"")
    assert (48 << 20) - 3 * 4096 <= field(memory, "<I", 0x218) <= (48 << 20) - 10006


@pytest.mark.parametrize("kernel", [bzimage("f4", init_size=40 << 20), vmlinux("f4", in_memory=40 << 20)])
def test_an_initramfs_that_does_not_fit_names_the_memory_needed(
    memory: GuestMemory, tmp_path: Path, kernel: bytes
) -> None:
    big = guest(tmp_path, kernel, b"070701" + bytes(10 << 20))
    with pytest.raises(
        VmError, match=r"initramfs: .* do not fit .* into 64M; --memory 67M would hold it"
    ) as caught:
        linux.load(memory, big, b"")
    assert caught.value.exit_code == 64
    with GuestMemory(67 << 20) as enough:
        linux.load(enough, big, b"")


def test_a_kernel_that_does_not_fit_names_the_memory_needed(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(VmError, match=r"--memory: .*/kernel needs 81M at least, not 64M") as caught:
        linux.load(memory, guest(tmp_path, bzimage("f4", init_size=65 << 20)), b"")
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("kernel", "initramfs", "command_line", "status", "message"),
    [
        (b"text", None, "", 65, "--kernel .*/kernel: neither a bzImage nor"),
        (bzimage("f4")[:-1], None, "", 65, "--kernel .*/kernel: cut off"),
        (vmlinux("f4", address=0x8000), None, "", 65, "below 1 MiB"),
        (bzimage("f4"), b"text", "", 65, "--initramfs .*/initramfs: not a cpio archive"),
        (bzimage("f4"), b"", "", 65, "--initramfs .*/initramfs: not a cpio archive"),
        (bzimage("f4"), None, "x" * 2048, 64, "--cmdline: 2048 bytes.*limit is 2047"),
        (bzimage("f4"), None, "a\nb", 64, "--cmdline: contains a control character"),
        (bzimage("f4"), None, "a\0b", 64, "--cmdline: contains a control character"),
    ],
)
def test_invalid_files_are_named(
    tmp_path: Path, kernel: bytes, initramfs: bytes | None, command_line: str, status: int, message: str
) -> None:
    with pytest.raises(VmError, match=message) as caught:
        guest(tmp_path, kernel, initramfs, command_line)
    assert caught.value.exit_code == status


@pytest.mark.parametrize("flag", ["--kernel", "--initramfs"])
def test_a_missing_file_is_named(tmp_path: Path, flag: str) -> None:
    (tmp_path / "good").write_bytes(bzimage("f4"))
    paths = {"--kernel": str(tmp_path / "good"), "--initramfs": str(tmp_path / "good")}
    paths[flag] = "/nowhere/x"
    with pytest.raises(VmError, match=f"{flag} /nowhere/x: No such file") as caught:
        linux.read(paths["--kernel"], paths["--initramfs"], "")
    assert caught.value.exit_code == 69
