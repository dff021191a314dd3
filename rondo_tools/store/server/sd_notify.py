"""What systemd wants to hear: that we are ready, alive, and about to go (sd_notify(3)).

Strategy: one datagram each to the socket that NOTIFY_SOCKET names; without one, nothing. A service
manager that does not listen is no reason to fail.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Tells the service manager. `alive_every_s` is how often it wants a sign of life; None: never."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        interval_us = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.alive_every_s: float | None = None
        if self._address and interval_us.isdecimal() and int(interval_us) and pid == str(os.getpid()):
            self.alive_every_s = int(interval_us) / 2e6  # half of it, as sd_watchdog_enabled(3) advises

    def ready(self) -> None:
        self._send(b"READY=1")

    def alive(self) -> None:
        self._send(b"WATCHDOG=1")

    def stopping(self) -> None:
        self._send(b"STOPPING=1")

    def _send(self, message: bytes) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(message, socket.MSG_DONTWAIT, self._address)
        except OSError:
            pass  # nobody listens, or not now: it decides what to make of our silence
