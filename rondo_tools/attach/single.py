"""A lock for the one watcher of all VMs on a host: a second would send every session twice.

Strategy: an abstract Unix socket is a name that only one process can have. It needs no file and no
permission, and is free again when the process is gone. Any user can take the name, so its owner counts as a
watcher only if it is root or our own user.
"""

from __future__ import annotations

import logging
import os
import socket
import struct

from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_log = logging.getLogger(__name__)

_NAME = "\0rondo-attach"
_CREDENTIALS = struct.Struct("3i")  # process, user, group


def claim() -> socket.socket | None:
    """Take the lock, which the returned socket holds. Raises RondoError if another watcher has it.

    None if another user has the name.
    """
    mine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mine.bind(_NAME)
        mine.listen(1)
    except OSError:
        mine.close()
    else:
        return mine
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as peer:
        pid, user = 0, os.getuid()
        try:
            peer.connect(_NAME)
            option = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, user, _ = _CREDENTIALS.unpack(option)
        except OSError:
            pass  # its queue is full, or it is just starting or ending
    if user not in (0, os.getuid()):
        _log.warning(
            "process %d of user %d has the name of rondo-attach's lock; continuing without it", pid, user
        )
        return None
    raise RondoError(
        f"rondo-attach already watches all VMs of this host{f' (process {pid})' if pid else ''}; "
        "use --text or --pid beside it",
        exit_code=EX_UNAVAILABLE,
    )
