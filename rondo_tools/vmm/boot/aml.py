"""ACPI machine language: the terms of our DSDT, each a function from values to bytes.

Source: ACPI 6.4, chapter 20 (the language), 6.4 (resource descriptors).
"""

from __future__ import annotations

import struct

_ZERO, _ONE, _BYTE, _WORD, _DWORD = 0x00, 0x01, 0x0A, 0x0B, 0x0C


def name(path: str, value: bytes) -> bytes:
    """Name (path, value)"""
    return b"\x08" + _name_string(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    """Scope (path) { terms }"""
    return b"\x10" + _package_length(_name_string(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Device (path) { terms }"""
    return b"\x5b\x82" + _package_length(_name_string(path) + b"".join(terms))


def package(*elements: bytes) -> bytes:
    """Package { elements }"""
    return b"\x12" + _package_length(bytes([len(elements)]) + b"".join(elements))


def integer(value: int) -> bytes:
    """The shortest constant; up to 32 bits."""
    if value in (_ZERO, _ONE):
        return bytes([value])
    for prefix, size in ((_BYTE, 1), (_WORD, 2), (_DWORD, 4)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} has more than 32 bits")


def string(value: str) -> bytes:
    return b"\x0d" + value.encode("ascii") + b"\0"


def eisa_id(identifier: str) -> bytes:
    """EisaId ("PNP0501"): three letters of five bits each, four hexadecimal digits, big-endian."""
    letters = 0
    for letter in identifier[:3]:
        letters = letters << 5 | ord(letter) - 0x40
    packed = struct.pack(">HH", letters, int(identifier[3:], 16))
    return bytes([_DWORD]) + packed


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { descriptors }"""
    content = b"".join(descriptors) + b"\x79\0"  # the end tag; a checksum of 0 means none
    return b"\x11" + _package_length(integer(len(content)) + content)


def ports(base: int, length: int) -> bytes:
    """IO (Decode16, base, base, 1, length)"""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, length)


def isa_interrupt(line: int) -> bytes:
    """IRQNoFlags () { line }: edge-triggered, active high."""
    return struct.pack("<BH", 0x22, 1 << line)


def memory(base: int, length: int) -> bytes:
    """Memory32Fixed (ReadWrite, base, length)"""
    return struct.pack("<BHBII", 0x86, 9, 1, base, length)


def interrupt(line: int) -> bytes:
    """Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { line }"""
    return struct.pack("<BHBBI", 0x89, 6, 0x03, 1, line)


def _name_string(path: str) -> bytes:
    root = path.startswith("\\")
    segment = path.lstrip("\\").ljust(4, "_").encode("ascii")
    if len(segment) != 4:
        raise ValueError(f"{path!r} is not one name of up to four letters")
    return (b"\\" if root else b"") + segment


def _package_length(content: bytes) -> bytes:
    """PkgLength, which includes its own size, followed by the content (20.2.4)."""
    if len(content) + 1 < 0x40:
        return bytes([len(content) + 1]) + content
    for extra in (1, 2, 3):
        length = len(content) + 1 + extra
        if length < 1 << 4 + 8 * extra:
            rest = (length >> 4).to_bytes(extra, "little")
            return bytes([extra << 6 | length & 0xF]) + rest + content
    raise ValueError(f"a package of {len(content)} bytes")
