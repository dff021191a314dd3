"""Kernels of a few bytes, in the two formats that are booted."""

from __future__ import annotations

import struct

ENTRY = 0x100_0000  # of a vmlinux
POWER_OFF = "66ba0006 b034 ee ebfe"  # mov dx, 0x600; mov al, SLP_EN | S5 << 2; out dx, al; jmp to itself
RESET = "b0fe e664 ebfe"  # mov al, 0xfe; out 0x64, al
SILENT = "ebfe"
SPIN = "e680" + SILENT  # out 0x80, al: a sign of life
# The serial port with its receiver's interrupt on, polled: echo up to a full stop, then power off.
ECHO = "66bafc03 b008ee 66baf903 b001ee 66bafd03 ec a801 74f7 66baf803 ec ee 3c2e 75ed" + POWER_OFF


def vmlinux(code: str, *, address: int = ENTRY, in_memory: int | None = None, machine: int = 62) -> bytes:
    """An ELF executable whose one segment is `code`, in 64-bit mode."""
    data = bytes.fromhex(code)
    header = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 2, machine, 1, address, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    size = len(data) if in_memory is None else in_memory
    return header + struct.pack("<IIQQQQQQ", 1, 5, 120, address, address, len(data), size, 4096) + data


def bzimage(
    code: str,
    *,
    version: int = 0x20F,
    flags: int = 1,
    sectors: int = 1,
    init_size: int = 1 << 20,
    initrd_max: int = 0x7FFF_FFFF,
) -> bytes:
    """A bzImage whose kernel has `code` at its 64-bit entry."""
    body = bytes(0x200) + bytes.fromhex(code)
    body += bytes(-len(body) % 16)
    setup = bytearray(512 * (sectors + 1))
    setup[0x1F1] = sectors
    struct.pack_into("<I", setup, 0x1F4, len(body) // 16)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x206] = b"\xeb\x6aHdrS"  # a jump over the header, which ends at 0x26c
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<I", setup, 0x22C, initrd_max)
    struct.pack_into("<HI", setup, 0x236, flags, 2047)
    struct.pack_into("<QI", setup, 0x258, ENTRY, init_size)
    return bytes(setup) + body
