"""bpf(2) by ctypes: maps, programs and raw tracepoints. Each function is one call; errors are OSError.

`union bpf_attr` of <linux/bpf.h> is packed by `struct`; the kernel takes any prefix of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_NUMBER = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine)

_MAP_CREATE, _MAP_LOOKUP, _MAP_DELETE, _PROG_LOAD, _OBJ_PIN, _OBJ_GET = 0, 1, 3, 5, 6, 7
_OBJECT_INFO, _RAW_TRACEPOINT_OPEN, _MAP_LOOKUP_BATCH = 15, 17, 24
HASH, ARRAY = 1, 2  # kinds of maps
_RAW_TRACEPOINT = 17  # a kind of program

_BATCH_COUNT_AT = 32  # in the attributes of a batch
_BATCH_BYTES = 56

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char], size: int) -> int:
    if _NUMBER is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known on {os.uname().machine}")
    result = _libc.syscall(_NUMBER, command, attributes, size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _call(command: int, layout: str, *values: int | bytes) -> int:
    packed = struct.pack(layout, *values)
    return bpf(command, ctypes.create_string_buffer(packed, len(packed)), len(packed))


def create_map(kind: int, key_bytes: int, value_bytes: int, entries: int, name: str) -> int:
    return _call(_MAP_CREATE, "<7I16s", kind, key_bytes, value_bytes, entries, 0, 0, 0, name.encode())


def map_id(fd: int) -> int:
    """The kernel's id of a map, unique while the host runs."""
    info = ctypes.create_string_buffer(8)  # of struct bpf_map_info: type, id
    _call(_OBJECT_INFO, "<IIQ", fd, len(info), ctypes.addressof(info))
    return int.from_bytes(info.raw[4:], "little")


def load_program(code: bytes, name: str) -> int:
    """Load a program for raw tracepoints. If the verifier refuses it, the error has the verifier's reason."""
    text = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(1 << 18)

    def load(level: int) -> int:
        return _call(
            *(_PROG_LOAD, "<IIQQIIQII16s", _RAW_TRACEPOINT, len(code) // 8),
            *(ctypes.addressof(text), ctypes.addressof(licence)),
            *(level, len(log) if level else 0, ctypes.addressof(log) if level else 0),
            *(0, 0, name.encode()),
        )

    try:
        return load(0)
    except PermissionError:
        raise
    except OSError as exc:
        try:
            os.close(load(1))  # once more, with the verifier's log
        except OSError:
            pass
        lines = log.value.decode(errors="replace").strip().splitlines()
        raise OSError(exc.errno, f"{exc.strerror}: {' / '.join(lines[-3:])}") from exc


def open_raw_tracepoint(name: str, program: int) -> int:
    """Run a program at a tracepoint while the returned descriptor is open."""
    text = ctypes.create_string_buffer(name.encode())
    return _call(_RAW_TRACEPOINT_OPEN, "<QI", ctypes.addressof(text), program)


def pin(fd: int, path: str) -> None:
    """Keep a map or a link while its file in a bpf file system exists."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    _call(_OBJ_PIN, "<QI", ctypes.addressof(text), fd)


def open_pinned(path: str) -> int:
    text = ctypes.create_string_buffer(os.fsencode(path))
    return _call(_OBJ_GET, "<QII", ctypes.addressof(text), 0, 0)


def look_up(fd: int, key: bytes, value_bytes: int) -> bytes:
    at = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_bytes)
    _call(_MAP_LOOKUP, "<IIQQQ", fd, 0, ctypes.addressof(at), ctypes.addressof(value), 0)
    return value.raw


def delete(fd: int, key: bytes) -> None:
    at = ctypes.create_string_buffer(key, len(key))
    _call(_MAP_DELETE, "<IIQQQ", fd, 0, ctypes.addressof(at), 0, 0)


class Batch:
    """Reads a whole hash map with one call, or several until the buffers are large enough."""

    def __init__(self, fd: int, key_bytes: int, value_bytes: int) -> None:
        self._fd, self._key_bytes, self._value_bytes = fd, key_bytes, value_bytes
        self._make_room(256)

    def _make_room(self, entries: int) -> None:
        self._entries = entries
        self._keys = ctypes.create_string_buffer(self._key_bytes * entries)
        self._values = ctypes.create_string_buffer(self._value_bytes * entries)
        self._position = ctypes.create_string_buffer(8)
        self._attributes = ctypes.create_string_buffer(_BATCH_BYTES)

    def read(self) -> tuple[memoryview, memoryview]:
        """Keys and values of all entries; valid until the next call."""
        while True:
            struct.pack_into(
                *("<QQQQIIQQ", self._attributes, 0, 0, ctypes.addressof(self._position)),
                *(ctypes.addressof(self._keys), ctypes.addressof(self._values)),
                *(self._entries, self._fd, 0, 0),
            )
            try:
                bpf(_MAP_LOOKUP_BATCH, self._attributes, _BATCH_BYTES)
            except FileNotFoundError:  # the end of the map
                break
            except OSError as exc:
                if exc.errno != errno.ENOSPC:  # a bucket did not fit
                    raise
            self._make_room(2 * self._entries)
        count: int = struct.unpack_from("<I", self._attributes, _BATCH_COUNT_AT)[0]
        keys = memoryview(self._keys)[: count * self._key_bytes]
        return keys, memoryview(self._values)[: count * self._value_bytes]
