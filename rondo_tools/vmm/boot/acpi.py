"""ACPI tables: they describe processors, interrupts, devices and the power switch to Linux.

Strategy: "hardware-reduced" ACPI, which assumes no legacy hardware: no timer, no events, two registers
for sleep and one for reset. The tables are contiguous, the root first:

    RSDP ─▶ XSDT ─▶ FADT ─▶ DSDT   devices, in ACPI machine language
                 └▶ MADT           processors, interrupt controllers

Source: ACPI 6.4, chapters 4.8 (registers), 5.2 (tables).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from rondo_tools.vmm import layout
from rondo_tools.vmm.boot import aml

_OEM = b"RONDO "
_OEM_TABLE = b"MICROVM "
_CREATOR = b"RNDO"
_HEADER = struct.Struct("<4sIBB6s8sI4sI")

_SYSTEM_IO = 1  # an address space
_BYTE_ACCESS = 1

_FADT_LENGTH = 276  # of revision 6
_NO_VGA, _NO_CMOS_RTC = 1 << 2, 1 << 5  # IAPC_BOOT_ARCH
_WBINVD, _NO_POWER_BUTTON, _NO_SLEEP_BUTTON = 1 << 0, 1 << 4, 1 << 5  # fixed feature flags
_RESET_SUPPORTED, _HARDWARE_REDUCED = 1 << 10, 1 << 20
_RESET_VALUE = 0xFE

_SOFT_OFF = 5  # the sleep type that the power switch takes for S5


class VirtioDevice(NamedTuple):
    """The base address and the interrupt line of a virtio-mmio device."""

    base: int
    interrupt: int


def tables(address: int, cpus: int, virtio: Sequence[VirtioDevice]) -> bytes:
    """All tables, to be loaded at `address`; the RSDP comes first."""
    dsdt = _table(b"DSDT", 2, _dsdt(virtio))
    madt = _table(b"APIC", 5, _madt(cpus))
    dsdt_at = address + 64
    fadt_at = _align(dsdt_at + len(dsdt))
    fadt = _table(b"FACP", 6, _fadt(dsdt_at))
    madt_at = _align(fadt_at + len(fadt))
    xsdt_at = _align(madt_at + len(madt))
    xsdt = _table(b"XSDT", 1, struct.pack("<QQ", fadt_at, madt_at))
    placed = ((address, _rsdp(xsdt_at)), (dsdt_at, dsdt), (fadt_at, fadt), (madt_at, madt), (xsdt_at, xsdt))
    whole = bytearray(xsdt_at + len(xsdt) - address)
    for at, table in placed:
        whole[at - address : at - address + len(table)] = table
    return bytes(whole)


def _rsdp(xsdt_at: int) -> bytes:
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, _OEM, 2, 0))
    first[8] = _checksum(first)
    whole = first + struct.pack("<IQB3x", 36, xsdt_at, 0)
    whole[32] = _checksum(whole)
    return bytes(whole)


def _fadt(dsdt_at: int) -> bytes:
    """The FADT without its header. Offsets are those of the specification, which include the header."""
    body = bytearray(_FADT_LENGTH)
    fields: tuple[tuple[int, str, tuple[int, ...]], ...] = (
        (40, "<I", (dsdt_at,)),
        (109, "<H", (_NO_VGA | _NO_CMOS_RTC,)),
        (112, "<I", (_WBINVD | _NO_POWER_BUTTON | _NO_SLEEP_BUTTON | _RESET_SUPPORTED | _HARDWARE_REDUCED,)),
        (116, "<BBBBQ", _register(layout.I8042_BASE + 4)),
        (128, "<B", (_RESET_VALUE,)),
        (131, "<B", (4,)),  # the minor version
        (140, "<Q", (dsdt_at,)),
        (244, "<BBBBQ", _register(layout.POWER_BASE)),
        (256, "<BBBBQ", _register(layout.POWER_BASE + 1)),
    )
    for at, form, values in fields:
        struct.pack_into(form, body, at, *values)
    return bytes(body[_HEADER.size :])


def _register(port: int) -> tuple[int, int, int, int, int]:
    """A generic address structure: a port of one byte."""
    return (_SYSTEM_IO, 8, 0, _BYTE_ACCESS, port)


def _madt(cpus: int) -> bytes:
    processors = b"".join(struct.pack("<BBBBI", 0, 8, number, number, 1) for number in range(cpus))
    io_apic = struct.pack("<BBBBII", 1, 12, cpus, 0, layout.IO_APIC, 0)
    return struct.pack("<II", layout.LOCAL_APIC, 0) + processors + io_apic


def _dsdt(virtio: Sequence[VirtioDevice]) -> bytes:
    serial = aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(1)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.ports(layout.COM1_BASE, layout.COM1_LENGTH), aml.isa_interrupt(layout.COM1_IRQ)
            ),
        ),
    )
    devices = (_virtio_device(number, *place) for number, place in enumerate(virtio))
    sleep = aml.package(*(aml.integer(value) for value in (_SOFT_OFF, _SOFT_OFF, 0, 0)))
    return aml.name("\\_S5", sleep) + aml.scope("\\_SB", serial, *devices)


def _virtio_device(number: int, base: int, interrupt: int) -> bytes:
    return aml.device(
        f"VIO{number:X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(number)),
        aml.name("_CCA", aml.integer(1)),
        aml.name("_CRS", aml.resources(aml.memory(base, layout.VIRTIO_STEP), aml.interrupt(interrupt))),
    )


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    whole = bytearray(
        _HEADER.pack(signature, _HEADER.size + len(body), revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1)
        + body
    )
    whole[9] = _checksum(whole)
    return bytes(whole)


def _checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes 0."""
    return -sum(data) & 0xFF


def _align(address: int) -> int:
    return -(-address // 16) * 16
