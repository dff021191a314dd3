"""Loads Linux by its 64-bit boot protocol, without firmware or boot loader.

Strategy: `read` checks the files before a VM is built; `load` checks that they fit into memory. Every
message names the flag.

    0x500     GDT             code 0x10, data 0x18, as the protocol requires
    0x7000    zero page       the setup header, memory map, addresses of the rest
    0x9000    page tables     the first 4 GiB, identity-mapped, in pages of 2 MiB
    0x20000   command line
    0xE0000   ACPI            tables from `acpi`, in reserved memory
    0xFFFF0   reset vector    code that resets the machine
    1 MiB     the kernel; the initramfs at the highest possible address

Source: Documentation/arch/x86/boot.rst and zero-page.rst of Linux.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from rondo_tools.errors import EX_DATAERR, EX_UNAVAILABLE, EX_USAGE, VmError
from rondo_tools.units import format_size
from rondo_tools.vmm import layout
from rondo_tools.vmm.boot import image
from rondo_tools.vmm.memory import GuestMemory, MemoryFault
from rondo_tools.vmm.regular import open_regular

# Quiet, because each letter on the console is an exit. Linux does not probe for PCI and more serial ports,
# which do not exist, and skips the self-tests of ciphers, which take most of the boot.
DEFAULT_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 pci=off 8250.nr_uarts=1 cryptomgr.notests random.trust_cpu=on"
)

# Fields of the zero page.
_RSDP = (Struct("<Q"), 0x070)
_E820_COUNT = (Struct("<B"), 0x1E8)
_BOOT_FLAG = (Struct("<H"), 0x1FE)
_MAGIC = (Struct("<4sH"), 0x202)  # and the protocol's version
_LOADER = (Struct("<BB"), 0x210)  # type, loadflags
_INITRAMFS = (Struct("<II"), 0x218)  # address, size
_COMMAND_LINE = (Struct("<I"), 0x228)
_ALIGNMENT = (Struct("<I"), 0x230)
_E820 = Struct("<QQI")
_E820_AT = 0x2D0
_USABLE, _RESERVED = 1, 2

_LOADER_UNKNOWN = 0xFF  # a loader without an assigned number
_LOADED_HIGH = 1
_VERSION = 0x020F

_PAGE = 4096
_BIG_PAGE = 2 << 20
_PRESENT_WRITABLE = 0x03
_BIG = 0x80
_U64 = Struct("<Q")

# Selector 0x10: 64-bit code; 0x18: data. Both flat, present, ring 0, accessed.
_GDT = (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)

_RESET_CODE = bytes.fromhex("b0fe e664 f4 ebfd")  # mov al, 0xfe; out 0x64, al; hlt; jmp to the hlt

_PIECE = 1 << 24  # bytes read at once
_KERNEL_MAX = 1 << 30  # bytes of the file; a vmlinux with debugging symbols has half of that
_INITRAMFS_MAGIC = (
    *(b"070701", b"070702", b"\x1f\x8b", b"\xfd7zXZ", b"(\xb5/\xfd", b"BZh"),
    *(b"\x02!L\x18", b"\x04\x22M\x18", b"\x5d\x00\x00", b"\x89LZO"),
)


class Entry(NamedTuple):
    """The initial state of the first vCPU, beyond the fixed part.

    Fixed: 64-bit mode, paging on, interrupts off; CS is selector 0x10, the others 0x18.
    """

    rip: int
    rsi: int  # the zero page
    cr3: int
    gdt: int
    gdt_limit: int


class Guest(NamedTuple):
    """The files and the command line to boot, read and checked."""

    kernel: image.Image
    kernel_path: str
    initramfs: bytes
    initramfs_path: str
    command_line: bytes


def read(
    kernel_path: str, initramfs_path: str | None, command_line: str, memory: int = layout.MEMORY_MAX
) -> Guest:
    """Read the files, for a guest with `memory` bytes.

    Raises VmError for a file that cannot be read (69), is invalid (65) or does not fit (64), UsageError for
    one that is not a regular file.
    """
    limit = f"a kernel's file has at most {format_size(_KERNEL_MAX)}"
    data = _read_file("--kernel", kernel_path, _check_kernel, _KERNEL_MAX, limit)
    try:
        kernel = image.parse(data, layout.PC_HIGH)
    except image.ImageError as exc:
        raise VmError(f"--kernel {kernel_path}: {exc}", exit_code=EX_DATAERR) from exc
    if min(address for address, _ in kernel.segments) < layout.PC_HIGH:
        message = f"--kernel {kernel_path}: has a segment below 1 MiB, as no kernel has"
        raise VmError(message, exit_code=EX_DATAERR)
    initramfs = b""
    if initramfs_path is not None:
        limit = f"--memory is {_mib(memory)}M, and unpacked it needs more"
        initramfs = _read_file("--initramfs", initramfs_path, _check_initramfs, memory, limit)
    return Guest(kernel, kernel_path, initramfs, initramfs_path or "", _check(command_line, kernel))


def _check(command_line: str, kernel: image.Image) -> bytes:
    words = os.fsencode(command_line)
    if any(byte < 0x20 for byte in words):
        raise VmError("--cmdline: contains a control character; it must be one line", exit_code=EX_USAGE)
    if len(words) > kernel.command_line_max:
        raise VmError(
            f"--cmdline: {len(words)} bytes, including our defaults; "
            f"this kernel's limit is {kernel.command_line_max}",
            exit_code=EX_USAGE,
        )
    return words


def _check_kernel(path: str, head: bytes | bytearray) -> None:
    try:
        image.check_kind(head)
    except image.ImageError as exc:
        raise VmError(f"--kernel {path}: {exc}", exit_code=EX_DATAERR) from exc


def _check_initramfs(path: str, head: bytes | bytearray) -> None:
    if not head.startswith(_INITRAMFS_MAGIC):
        message = (
            f"--initramfs {path}: not a cpio archive (newc), compressed or not; "
            "`find . | cpio -o -H newc | gzip` makes one"
        )
        raise VmError(message, exit_code=EX_DATAERR)


def _read_file(
    flag: str, path: str, check: Callable[[str, bytes | bytearray], None], most: int, limit: str
) -> bytes:
    """Read a file of at most `most` bytes; `check` gets its first KiB, `limit` explains the limit."""
    try:
        fd = open_regular(flag, path, os.O_RDONLY)
        try:
            data = bytearray(os.read(fd, image.HEAD))
            check(path, data)
            size = os.fstat(fd).st_size
            while size <= most and (piece := os.read(fd, _PIECE)):
                data += piece
                size = max(size, len(data))  # it may grow, and files in /proc have size 0
        finally:
            os.close(fd)
    except OSError as exc:
        raise VmError(f"{flag} {path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    if size > most:
        raise VmError(f"{flag} {path}: {format_size(size)} do not fit: {limit}", exit_code=EX_USAGE)
    return bytes(data)


def load(memory: GuestMemory, guest: Guest, tables: bytes) -> Entry:
    """Load `guest` and its ACPI `tables` into fresh memory. Raises VmError (64) if that is too small."""
    kernel = guest.kernel
    if memory.size < max(kernel.end, layout.PC_MEMORY_MIN):
        raise VmError(
            f"--memory: {guest.kernel_path} needs {_mib(max(kernel.end, layout.PC_MEMORY_MIN))}M at "
            f"least, not {memory.size >> 20}M",
            exit_code=EX_USAGE,
        )
    for address, part in kernel.segments:
        memory.view(address, len(part))[:] = part
    at = _place_initramfs(memory, guest)
    memory.write(layout.PC_COMMAND_LINE, guest.command_line + b"\0")
    _write_tables(memory, tables)
    memory.write(layout.PC_RESET, _RESET_CODE)
    _write_zero_page(memory, guest, at)
    for number, entry in enumerate(_GDT):
        memory.pack(_U64, layout.PC_GDT + 8 * number, entry)
    _write_page_tables(memory)
    return Entry(
        rip=kernel.entry,
        rsi=layout.PC_BOOT_PARAMS,
        cr3=layout.PC_PAGE_TABLES,
        gdt=layout.PC_GDT,
        gdt_limit=8 * len(_GDT) - 1,
    )


def _place_initramfs(memory: GuestMemory, guest: Guest) -> int:
    """Load the initramfs as high as the kernel can reach; returns its address."""
    size = len(guest.initramfs)
    if not size:
        return 0
    top = min(memory.size, guest.kernel.initrd_max + 1)
    at = (top - size) // _PAGE * _PAGE
    if at < guest.kernel.end:
        needed = guest.kernel.end + size + _PAGE
        raise VmError(
            f"--initramfs {guest.initramfs_path}: {size} bytes do not fit beside the kernel into "
            f"{memory.size >> 20}M; --memory {_mib(needed)}M would hold it, and unpacked it needs more",
            exit_code=EX_USAGE,
        )
    memory.write(at, guest.initramfs)
    return at


def _write_tables(memory: GuestMemory, tables: bytes) -> None:
    if len(tables) > layout.PC_RESET - layout.PC_ACPI:
        raise MemoryFault(layout.PC_ACPI, len(tables))
    memory.write(layout.PC_ACPI, tables)


def _write_zero_page(memory: GuestMemory, guest: Guest, initramfs_at: int) -> None:
    page = layout.PC_BOOT_PARAMS
    header = guest.kernel.header
    memory.write(page + image.HEADER_AT, header)
    if not header:  # a vmlinux has none
        _set(memory, _BOOT_FLAG, 0xAA55)
        memory.write(page + _MAGIC[1], b"HdrS" + _VERSION.to_bytes(2, "little"))
        _set(memory, _ALIGNMENT, _BIG_PAGE)
    flags = memory.read(page + _LOADER[1] + 1, 1)[0]
    _set(memory, _LOADER, _LOADER_UNKNOWN, flags | _LOADED_HIGH)
    _set(memory, _INITRAMFS, initramfs_at, len(guest.initramfs))
    _set(memory, _COMMAND_LINE, layout.PC_COMMAND_LINE)
    _set(memory, _RSDP, layout.PC_ACPI)
    map_of_memory = (
        (0, layout.PC_LOW_END, _USABLE),
        (layout.PC_LOW_END, layout.PC_HIGH, _RESERVED),
        (layout.PC_HIGH, memory.size, _USABLE),
    )
    _set(memory, _E820_COUNT, len(map_of_memory))
    for number, (start, end, kind) in enumerate(map_of_memory):
        memory.pack(_E820, page + _E820_AT + number * _E820.size, start, end - start, kind)


def _set(memory: GuestMemory, field: tuple[Struct, int], *values: int) -> None:
    memory.pack(field[0], layout.PC_BOOT_PARAMS + field[1], *values)


def _write_page_tables(memory: GuestMemory) -> None:
    top = layout.PC_PAGE_TABLES
    middle, directories = top + _PAGE, top + 2 * _PAGE
    memory.pack(_U64, top, middle | _PRESENT_WRITABLE)
    for gib in range(4):
        directory = directories + gib * _PAGE
        memory.pack(_U64, middle + 8 * gib, directory | _PRESENT_WRITABLE)
        for number in range(512):
            address = (gib << 30) + number * _BIG_PAGE
            memory.pack(_U64, directory + 8 * number, address | _PRESENT_WRITABLE | _BIG)


def _mib(size: int) -> int:
    return -(-size >> 20)
