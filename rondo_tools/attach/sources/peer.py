"""Connects to a socket of a VMM, only if the watched process listens on it and no other client is disturbed.

Strategy: the kernel has the id of the listening process. A QMP socket that has a client, or is libvirt's, is
not even connected to: the connection would wait in its queue and be served next.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import PurePath

from rondo_tools.attach.sources.adapters import RefusedError

_PEER = struct.Struct("3i")  # process, user, group
_CONNECTED = "03"  # in /proc/net/unix


def connect_alone(path: str, pid: int) -> socket.socket:
    """Connect to a socket of this process that has no other client. Raises OSError or RefusedError."""
    real = os.path.realpath(path, strict=True)
    if "libvirt" in PurePath(real).parts:
        raise RefusedError(f"{path} is libvirt's", "a second QMP socket, for rondo-attach alone")
    if is_held(path, f"/proc/{pid}/net/unix") or is_held(real, f"/proc/{pid}/net/unix"):
        raise RefusedError(f"{path} has a client", "a second QMP socket, for rondo-attach alone")
    return connect(path, pid)


def connect(path: str, pid: int) -> socket.socket:
    """Connect to a socket of this process. Raises OSError or RefusedError."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        peer.connect(path)
        owner, _, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if owner != pid:
            raise RefusedError(f"{path} belongs to process {owner}, not {pid}")
    except OSError as exc:
        peer.close()
        if isinstance(exc, BlockingIOError):
            raise RefusedError(f"{path} has a queue of clients") from None
        raise type(exc)(exc.errno, exc.strerror or str(exc), path) from exc
    except RefusedError:
        peer.close()
        raise
    return peer


def is_held(path: str, table: str = "/proc/net/unix") -> bool:
    """Whether the socket at `path` has a client."""
    try:
        with open(table, errors="surrogateescape") as lines:
            for line in lines:
                fields = line.rstrip("\n").split(None, 7)
                if len(fields) == 8 and fields[5] == _CONNECTED and fields[7] == path:
                    return True
    except OSError:
        pass
    return False
