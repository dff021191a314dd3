"""Listening sockets: ``unix:PATH``, ``tcp:HOST:PORT``, or sockets from systemd.

Strategy: the mode of its file guards a Unix socket, 0660 from the first moment on. A stale socket file, on
which no process listens, is replaced; a live one is an error. TCP has no guard: it listens on loopback unless
a host is named, and the server warns of other addresses. A TCP peer may vanish silently, so keepalive probes
close its connection within two minutes.
"""

from __future__ import annotations

import errno
import grp
import ipaddress
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from rondo_tools import files, sd_notify
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, RondoError, UsageError

_BACKLOG = 1024
_MAX_UNIX_PATH = 107  # bytes, unix(7)
# A connection on which nothing has come for a minute is probed every 10 s; dead after 5 probes, at 110 s.
KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 5}


class Listener:
    """A listening socket that does not block. The owner closes it, which removes its socket file."""

    def __init__(self, listening: socket.socket, name: str, path: Path | None = None) -> None:
        listening.setblocking(False)
        self.socket = listening
        self.name = name
        self._path = path
        self._inode = path.stat().st_ino if path else 0

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def is_guarded(self) -> bool:
        """Whether only this host's processes can reach it: a Unix socket, or loopback."""
        if self.socket.family == socket.AF_UNIX:
            return True
        return ipaddress.ip_address(self.socket.getsockname()[0].partition("%")[0]).is_loopback

    def accept(self) -> socket.socket:
        """A new connection. Raises OSError."""
        connection, _ = self.socket.accept()
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE.items():
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        self.socket.close()
        try:
            # Another process may have replaced the file; it keeps the new one.
            if self._path is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except OSError:
            pass  # it is gone already


def listen(address: str, group: str | None = None) -> Listener:
    """Listen on the address of ``--listen``. Raises UsageError if it is invalid, else RondoError."""
    kind, _, rest = address.partition(":")
    try:
        if kind == "unix" and rest:
            return _listen_unix(Path(rest), address, _group_id(group))
        if kind == "tcp" and rest:
            return _listen_tcp(rest, address)
    except OSError as exc:
        status = EX_TEMPFAIL if exc.errno == errno.EADDRINUSE else EX_UNAVAILABLE
        raise RondoError(f"--listen {address}: {_why(exc, kind, rest)}", exit_code=status) from exc
    raise UsageError(f"--listen {address}: write unix:PATH or tcp:HOST:PORT")


def inherited(environment: MutableMapping[str, str] = os.environ) -> list[Listener]:
    """The sockets that systemd has opened for us (sd_listen_fds(3)), if any."""
    found = []
    for _, fd in sd_notify.handed_over(environment):
        try:
            listening = socket.socket(fileno=fd)
        except OSError as exc:
            raise UsageError(f"LISTEN_FDS: descriptor {fd} is not a socket") from exc
        if listening.type != socket.SOCK_STREAM or not listening.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise UsageError(f"LISTEN_FDS: descriptor {fd} does not listen for streams (ListenStream=)")
        found.append(Listener(listening, f"descriptor {fd}"))
    return found


def _why(exc: OSError, kind: str, rest: str) -> str:
    """The error in words, and what to do."""
    text = exc.strerror or str(exc)
    if kind == "unix" and isinstance(exc, FileNotFoundError):
        return f"{text}; make the folder {Path(rest).parent}"
    if kind == "unix":
        return files.why(exc, Path(rest).parent)
    if isinstance(exc, PermissionError):
        return f"{text}; a port below 1024 is for root: choose one above"
    if exc.errno == errno.EADDRINUSE:
        return f"another process listens there ({text}); choose another port, or see who it is: ss -ltnp"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{text}: this host has no such address"
    return text


def _listen_unix(path: Path, address: str, group_id: int) -> Listener:
    if len(os.fsencode(path)) > _MAX_UNIX_PATH:
        raise UsageError(f"--listen {address}: a socket's path has at most {_MAX_UNIX_PATH} bytes")
    _remove_left_over(path, address)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        listening.bind(os.fspath(path))
        if group_id >= 0:
            os.chown(path, -1, group_id)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(before)
    return Listener(listening, address, path)


def _remove_left_over(path: Path, address: str) -> None:
    """Remove a stale socket file, on which no process listens. Raises UsageError or RondoError for others."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"--listen {address}: there is a file that is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog must not block us
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise RondoError(f"--listen {address}: another process listens there", exit_code=EX_TEMPFAIL)


def _group_id(group: str | None) -> int:
    if group is None:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--socket-group {group}: there is no such group") from None


def _listen_tcp(rest: str, address: str) -> Listener:
    host, _, port = rest.rpartition(":")
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise UsageError(f"--listen {address}: write tcp:HOST:PORT, such as tcp:127.0.0.1:9400")
    host = host.strip("[]") or "127.0.0.1"
    family, kind, protocol, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    bound, port_bound = listening.getsockname()[:2]
    return Listener(listening, f"tcp:[{bound}]:{port_bound}" if ":" in bound else f"tcp:{bound}:{port_bound}")
