"""Notifies systemd: readiness, the watchdog, and descriptors that outlive a process (sd_notify(3)).

Strategy: each message is one datagram to the socket in NOTIFY_SOCKET; without it nothing is sent. An error of
the service manager is ignored. Stored descriptors come back through LISTEN_FDS, like those of a socket unit
(sd_listen_fds(3)).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

_FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Notifies the service manager. `alive_every_s` is the interval for `alive`; None: no watchdog."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        interval_us = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.alive_every_s: float | None = None
        if self._address and interval_us.isdecimal() and int(interval_us) and pid == str(os.getpid()):
            self.alive_every_s = int(interval_us) / 2e6  # half of it, as sd_watchdog_enabled(3) advises

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager to notify."""
        return bool(self._address)

    def ready(self) -> None:
        self._send(b"READY=1")

    def alive(self) -> None:
        self._send(b"WATCHDOG=1")

    def stopping(self) -> None:
        self._send(b"STOPPING=1")

    def store(self, name: str, fd: int) -> None:
        """Store a duplicate of a descriptor for the process that is started after this one.

        FDPOLL=0 (systemd 246): a BPF map always polls as EPOLLERR, on which systemd would drop it.
        """
        self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode(), fd)

    def remove(self, name: str) -> None:
        """Remove the stored descriptors of that name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())

    def _send(self, message: bytes, *fds: int) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(self._address)
                socket.send_fds(sender, [message], fds, socket.MSG_DONTWAIT)
        except OSError:
            pass  # the service manager does not listen; it handles a missing message


def handed_over(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """The inherited descriptors, sockets or stored ones, by name ("" without one).

    The caller owns them from now on; they are close-on-exec.
    """
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or pid != str(os.getpid()):
        return []  # they are for another process: a parent's
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(zip(names if len(names) == len(fds) else [""] * len(fds), fds, strict=True))
