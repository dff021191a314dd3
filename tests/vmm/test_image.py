"""Parsing kernels: valid files, and errors for all others."""

from __future__ import annotations

import gzip
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.vmm.boot.image import ImageError, parse
from tests.support.vmm.kernels import ENTRY, bzimage, vmlinux

LOAD = 0x10_0000


def test_a_bzimage_is_parsed() -> None:
    image = parse(bzimage("f4", sectors=3, init_size=5 << 20, initrd_max=0x37FF_FFFF), LOAD)
    ((address, part),) = image.segments
    assert (address, part[0x200], len(part)) == (LOAD, 0xF4, 0x210)
    assert image.entry == LOAD + 0x200
    assert image.end == ENTRY + (5 << 20)
    assert (image.command_line_max, image.initrd_max) == (2047, 0x37FF_FFFF)
    assert image.header[0x11:0x15] == b"HdrS"
    assert len(image.header) == 0x26C - 0x1F1


def test_no_setup_sectors_means_four() -> None:
    data = bytearray(bzimage("f4", sectors=4))
    data[0x1F1] = 0
    assert parse(bytes(data), LOAD).segments[0][1][0x200] == 0xF4


def test_a_vmlinux_is_parsed_into_segments() -> None:
    image = parse(vmlinux("90f4", in_memory=0x3000), LOAD)
    assert [(address, bytes(part)) for address, part in image.segments] == [(ENTRY, b"\x90\xf4")]
    assert (image.entry, image.end, image.header) == (ENTRY, ENTRY + 0x3000, b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a bzImage nor"),
        (b"#!/bin/sh\n", "neither a bzImage nor.*/boot/vmlinuz-VERSION"),
        (gzip.compress(b"x", mtime=0), "packed with gzip"),
        (b"\xfd7zXZ\0", "packed with xz"),
        (bytes(0x38) + b"ARM\x64" + bytes(64), "for ARM"),
        (bzimage("f4")[:0x220], "cut off: 544 bytes"),
        (bzimage("f4")[:-1], "cut off: 1551 bytes, and its header promises 1552"),
        (bzimage("f4", version=0x20B), "not a 64-bit kernel"),
        (bzimage("f4", flags=0), "not a 64-bit kernel"),
        (vmlinux("f4")[:40], "cut off: 40 bytes"),
        (vmlinux("f4")[:100], "cut off: 100 bytes"),
        (vmlinux("90f4")[:-1], "cut off: 121 bytes, and a segment ends at 122"),
        (vmlinux("f4", machine=183), "not for x86-64"),
        (b"\x7fELF\x01\x01" + bytes(100), "not for x86-64"),
        (vmlinux("f4", in_memory=0), "cut off"),
        (vmlinux("f4")[:24] + bytes(8) + vmlinux("f4")[32:], "starts outside its segments"),
        (vmlinux("f4")[:56] + bytes(2) + vmlinux("f4")[58:], "without segments"),
    ],
)
def test_other_files_are_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        parse(data, LOAD)


@given(st.sampled_from([bzimage("f4" * 40), vmlinux("f4" * 40)]), st.data())
def test_damaged_kernels_raise_only_image_errors(good: bytes, data: st.DataObject) -> None:
    bent = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if bent:
            bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = parse(bytes(bent), LOAD)
    except ImageError:
        return
    assert all(len(part) <= len(bent) for _, part in image.segments)


def test_a_segment_table_outside_the_file_is_refused() -> None:
    bent = bytearray(vmlinux("f4"))
    struct.pack_into("<Q", bent, 32, 1 << 63)
    with pytest.raises(ImageError, match="cut off"):
        parse(bytes(bent), LOAD)
