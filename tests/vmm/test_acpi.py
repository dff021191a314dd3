"""ACPI tables: each sums to zero, they find one another, and the reference compiler takes them apart."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.vmm import layout
from rondo_tools.vmm.boot import acpi, aml
from tests.support.needs import PATIENCE_S

ADDRESS = 0xE0000
DEVICES = [acpi.VirtioDevice(0xD000_0000 + 0x1000 * number, 16 + number) for number in range(8)]


def tables(cpus: int = 3, devices: list[acpi.VirtioDevice] = DEVICES) -> dict[str, bytes]:
    """The tables by signature, found as a kernel finds them: from the root on."""
    whole = acpi.tables(ADDRESS, cpus, devices)

    def at(address: int) -> bytes:
        offset = address - ADDRESS
        (length,) = struct.unpack_from("<I", whole, offset + 4)
        assert offset + length <= len(whole)
        return whole[offset : offset + length]

    root = whole[:36]
    assert root[:8] == b"RSD PTR "
    assert (sum(root[:20]) & 0xFF, sum(root) & 0xFF) == (0, 0)
    xsdt = at(*struct.unpack_from("<Q", root, 24))
    found = [xsdt, *(at(address) for (address,) in struct.iter_unpack("<Q", xsdt[36:]))]
    fadt = next(table for table in found if table[:4] == b"FACP")
    (old,), (new,) = struct.unpack_from("<I", fadt, 40), struct.unpack_from("<Q", fadt, 140)
    assert old == new
    return {table[:4].decode(): table for table in (*found, at(new))}


def test_every_table_sums_to_zero_and_is_found() -> None:
    found = tables()
    assert set(found) == {"XSDT", "FACP", "APIC", "DSDT"}
    for table in found.values():
        assert sum(table) & 0xFF == 0


def test_the_tables_fit_into_reserved_memory() -> None:
    assert len(acpi.tables(layout.PC_ACPI, 64, DEVICES)) <= layout.PC_RESET - layout.PC_ACPI


def test_each_processor_has_an_entry_and_the_io_apic_an_id_of_its_own() -> None:
    body = tables(cpus=5)["APIC"][44:]
    entries = []
    while body:
        entries.append(body[: body[1]])
        body = body[body[1] :]
    processors = [entry for entry in entries if entry[0] == 0]
    assert [(entry[2], entry[3], entry[4]) for entry in processors] == [(n, n, 1) for n in range(5)]
    (io_apic,) = [entry for entry in entries if entry[0] == 1]
    assert io_apic[2] == 5


def test_the_fixed_table_names_the_registers() -> None:
    fadt = tables()["FACP"]
    flags = struct.unpack_from("<I", fadt, 112)[0]
    assert flags & 1 << 20, "hardware-reduced"
    assert flags & 1 << 10, "reset is there"
    assert fadt[116:128] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x64)
    assert fadt[128] == 0xFE
    assert fadt[244:256] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x600)
    assert fadt[256:268] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x601)


def test_the_reference_compiler_reads_the_same_tables(program: Callable[[str], Path], tmp_path: Path) -> None:
    """Disassembled by iasl without a complaint, and its listing compiled back to the same bytes."""
    iasl = program("iasl")
    text = {}
    for name, table in tables().items():
        (tmp_path / f"{name}.dat").write_bytes(table)
        ran = subprocess.run(
            [iasl, "-d", f"{name}.dat"], cwd=tmp_path, capture_output=True, timeout=PATIENCE_S
        )
        log = (ran.stdout + ran.stderr).decode()
        assert ran.returncode == 0, log
        assert not re.search(r"error|warning|invalid|incorrect", log, re.IGNORECASE), log
        text[name] = (tmp_path / f"{name}.dsl").read_text()
    again = subprocess.run(
        [iasl, "-oa", "-p", "again", "DSDT.dsl"], cwd=tmp_path, capture_output=True, timeout=PATIENCE_S
    )
    assert b"0 Errors, 0 Warnings" in again.stdout
    assert (tmp_path / "again.aml").read_bytes()[36:] == tables()["DSDT"][36:]
    dsdt = " ".join(text["DSDT"].split())
    assert 'EisaId ("PNP0501")' in dsdt
    assert "Name (\\_S5, Package (0x04)" in dsdt
    assert dsdt.count('Name (_HID, "LNRO0005")') == 8
    for number, (base, line) in enumerate(DEVICES):
        device = dsdt[dsdt.index(f"Device (VIO{number})") :]
        assert f"0x{base:08X}, // Address Base" in device[:700]
        assert f"0x{line:08X}, }}" in device[:700]
        assert "Edge, ActiveHigh, Exclusive" in device[:700]
    assert "Hardware Reduced (V5) : 1" in text["FACP"]
    assert "Reset Register Supported (V2) : 1" in text["FACP"]


@pytest.mark.parametrize("size", [0, 1, 61, 62, 63, 64, 4092, 4093, 4094, 4095, 70000])
def test_a_package_length_counts_itself(size: int) -> None:
    term = aml.scope("ABCD", bytes(size))
    first = term[1]
    extra = first >> 6
    length = first & (0x3F if not extra else 0x0F)
    for at in range(extra):
        length |= term[2 + at] << 4 + 8 * at
    assert length == len(term) - 1
    assert term[2 + extra :] == b"ABCD" + bytes(size)


def test_constants_take_the_shortest_form() -> None:
    assert [aml.integer(value).hex() for value in (0, 1, 2, 255, 256, 0x12345678)] == [
        *("00", "01", "0a02", "0aff", "0b0001", "0c78563412")
    ]
    with pytest.raises(ValueError, match="more than 32 bits"):
        aml.integer(1 << 32)


def test_a_name_has_four_letters_at_most() -> None:
    assert aml.name("\\_S5", b"").endswith(b"\\_S5_")
    with pytest.raises(ValueError, match="ABCDE"):
        aml.device("ABCDE")
