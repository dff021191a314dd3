"""A BIOS that uses an IDE disk a known number of times, waits for a byte on COM1, and powers off."""

from __future__ import annotations

import struct
from pathlib import Path

from devtools import exit_loop

SECTOR = 512
_READ, _WRITE, _FLUSH = 0x20, 0x30, 0xE7
_COM1_STATUS = 0x3FD


def bios(reads: int, writes: int) -> bytes:
    """A BIOS with these requests of one sector each, and one flush."""
    code = _times(reads, _command(_READ) + _wait(0x1F7, 0x88, 0x08) + _times(SECTOR // 2, b"\x66\xed", 0x1F0))
    code += _times(
        writes, _command(_WRITE) + _wait(0x1F7, 0x88, 0x08) + _times(SECTOR // 2, b"\x66\xef", 0x1F0)
    )
    code += _wait(0x1F7, 0x80, 0) + _command(_FLUSH) + _wait(0x1F7, 0x80, 0)
    code += _wait(_COM1_STATUS, 0x01, 0x01)
    # The address of PIIX4's power management, which firmware would set; then SLP_EN with S5's type.
    code += _out32(0xCF8, 0x8000_0B40) + _out32(0xCFC, 0x601) + _out32(0xCF8, 0x8000_0B80) + _out32(0xCFC, 1)
    code += (
        b"\x66\xba\x04\x06" + b"\x66\xb8\x00\x20" + b"\x66\xef"
    )  # mov dx, 0x604; mov ax, 0x2000; out dx, ax
    return exit_loop.bios_of(code + b"\xf4\xeb\xfd")


def arguments(image: Path, disk: Path) -> list[str]:
    """QEMU's arguments for this guest: COM1 is standard input."""
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "pc,accel=kvm", "-m", "16", "-bios", str(image), "-serial", "stdio"),
        *("-drive", f"file={disk},format=raw,if=ide,index=0"),
    ]


def _command(command: int) -> bytes:
    """A command for sector 0 of the first disk, which must not be busy."""
    fields = ((0x1F6, 0xE0), (0x1F2, 1), (0x1F3, 0), (0x1F4, 0), (0x1F5, 0), (0x1F7, command))
    return _wait(0x1F7, 0x80, 0) + b"".join(_out8(port, value) for port, value in fields)


def _times(times: int, body: bytes, port: int | None = None) -> bytes:
    """mov ecx, times; 1: body; dec ecx; jnz 1b; the body may use a port in dx. Loops keep an outer ecx."""
    setup = b"" if port is None else b"\x66\xba" + struct.pack("<H", port)
    jump = b"\x0f\x85" + struct.pack("<i", -(len(body) + 1 + 6))
    # There is no stack: ebx counts the outer loop, ecx the inner one.
    if port is None:
        return b"\xbb" + struct.pack("<I", times) + body + b"\x4b" + jump
    return setup + b"\xb9" + struct.pack("<I", times) + body + b"\x49" + jump


def _wait(port: int, mask: int, wanted: int) -> bytes:
    """mov dx, port; 1: in al, dx; and al, mask; cmp al, wanted; jne 1b"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xec\x24" + bytes((mask, 0x3C, wanted)) + b"\x75\xf9"


def _out8(port: int, value: int) -> bytes:
    return b"\x66\xba" + struct.pack("<H", port) + bytes((0xB0, value, 0xEE))


def _out32(port: int, value: int) -> bytes:
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb8" + struct.pack("<I", value) + b"\xef"
