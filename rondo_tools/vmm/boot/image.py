"""Parses a kernel's file: a bzImage or an uncompressed ELF vmlinux.

Strategy: bytes in, an `Image` out; this module knows no guest memory. Every offset is checked against the
file before it is used, so that a truncated file gets its own message. Both formats are entered in 64-bit
mode.

    bzImage   setup header from 0x1F1 on ("HdrS" at 0x202), setup_sects + 1 sectors of 16-bit code,
              then the protected-mode kernel, syssize x 16 bytes, entered 0x200 behind its start
    vmlinux   an ELF executable for x86-64, its segments at their physical addresses

Sources: Documentation/arch/x86/boot.rst of Linux; the ELF-64 object file format, version 1.5.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

HEAD = 1024  # bytes: enough to tell the format
HEADER_AT = 0x1F1  # of the setup header, in a bzImage as in the zero page
_MAGIC = b"HdrS"
_HEADER = Struct("<B2xI")  # at 0x1F1: setup_sects, syssize
_VERSION = Struct("<H")  # at 0x206
_INITRD = Struct("<I")  # at 0x22C: initrd_addr_max
_ENTRY = Struct("<HI")  # at 0x236: xloadflags, cmdline_size
_PLACE = Struct("<QI")  # at 0x258: pref_address, init_size
_ENTRY_64 = 0x200
_XLF_KERNEL_64 = 1
_VERSION_64 = 0x020C  # the first with xloadflags

_ELF_MAGIC = b"\x7fELF"
_ELF = Struct("<4xBB12xH4xQQ14xHH")  # class, order; machine; entry, phoff; phentsize, phnum
_PROGRAM = Struct("<I4xQ8xQQQ8x")  # type; offset; physical address, size in the file, in memory
_LOAD = 1
_X86_64 = 62

_INITRD_MAX = 0x7FFF_FFFF  # for a vmlinux, which has no such field
_COMMAND_LINE_MAX = 2047

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x02!L\x18": "lz4",
}


class ImageError(Exception):
    """The file is not a bootable kernel; the message says why."""


class Image(NamedTuple):
    """A kernel's segments, entry point and limits. Addresses are guest-physical.

    `end` is the end of the memory that the kernel needs before it manages memory itself. `header` is the
    setup header for the zero page, empty for a vmlinux.
    """

    segments: tuple[tuple[int, memoryview], ...]
    entry: int
    end: int
    header: bytes
    command_line_max: int
    initrd_max: int


def parse(data: bytes, load_at: int) -> Image:
    """Parse a kernel; `load_at` is the load address of a bzImage. Raises ImageError."""
    check_kind(data)
    return _parse_elf(data) if data.startswith(_ELF_MAGIC) else _parse_bzimage(data, load_at)


def check_kind(data: bytes | bytearray) -> None:
    """Raise ImageError unless the file begins like a kernel. The first `HEAD` bytes are enough."""
    if data.startswith(_ELF_MAGIC) or data[0x202:0x206] == _MAGIC:
        return
    for magic, name in _PACKED.items():
        if data.startswith(magic):
            raise ImageError(f"packed with {name}: unpack it, or use the bzImage, /boot/vmlinuz-VERSION")
    if data[0x38:0x3C] == b"ARM\x64":
        raise ImageError("a kernel for ARM, and this VM is an x86-64 one")
    raise ImageError(
        "neither a bzImage nor an x86-64 ELF vmlinux; distributions keep theirs in /boot/vmlinuz-VERSION"
    )


def _parse_bzimage(data: bytes, load_at: int) -> Image:
    if len(data) < 0x270:
        raise ImageError(f"cut off: {len(data)} bytes do not even hold a bzImage's header")
    sectors, paragraphs = _HEADER.unpack_from(data, HEADER_AT)
    (version,) = _VERSION.unpack_from(data, 0x206)
    (initrd_max,) = _INITRD.unpack_from(data, 0x22C)
    flags, command_line_max = _ENTRY.unpack_from(data, 0x236)
    place, size = _PLACE.unpack_from(data, 0x258)
    if version < _VERSION_64 or not flags & _XLF_KERNEL_64:
        raise ImageError("not a 64-bit kernel of version 3.8 or later")
    start = ((sectors or 4) + 1) * 512
    end = start + paragraphs * 16
    if not paragraphs or len(data) < end:
        raise ImageError(f"cut off: {len(data)} bytes, and its header promises {end}")
    # 0x201 is how long the header is, counted from 0x202.
    header = data[HEADER_AT : 0x202 + data[0x201]]
    return Image(
        segments=((load_at, memoryview(data)[start:end]),),
        entry=load_at + _ENTRY_64,
        end=max(place + size, load_at + end - start),
        header=header,
        command_line_max=command_line_max,
        initrd_max=initrd_max,
    )


def _parse_elf(data: bytes) -> Image:
    if len(data) < _ELF.size:
        raise ImageError(f"cut off: {len(data)} bytes do not even hold an ELF header")
    bits, order, machine, entry, table, entry_size, count = _ELF.unpack_from(data)
    if (bits, order, machine) != (2, 1, _X86_64):
        raise ImageError("an ELF file, but not for x86-64")
    if entry_size != _PROGRAM.size or not count:
        raise ImageError("an ELF file without segments to load: an object file or a module is no kernel")
    if len(data) < table + count * entry_size:
        raise ImageError(f"cut off: {len(data)} bytes, and its segments are listed at {table}")
    segments = []
    end = 0
    for at in range(table, table + count * entry_size, entry_size):
        kind, offset, address, in_file, in_memory = _PROGRAM.unpack_from(data, at)
        if kind != _LOAD:
            continue
        if len(data) < offset + in_file or in_file > in_memory:
            raise ImageError(f"cut off: {len(data)} bytes, and a segment ends at {offset + in_file}")
        segments.append((address, memoryview(data)[offset : offset + in_file]))
        end = max(end, address + in_memory)
    if not any(address <= entry < address + len(part) for address, part in segments):
        raise ImageError("an ELF file that starts outside its segments: a program is no kernel")
    return Image(tuple(segments), entry, end, b"", _COMMAND_LINE_MAX, _INITRD_MAX)
