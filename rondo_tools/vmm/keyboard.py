"""What is typed to a guest, until the guest reads it.

Strategy: what was typed waits here, and goes to the serial port a piece at a time, whenever the port
has nothing left and the guest listens; in the vCPU's thread, or in that of who types if the guest
was waiting already. Nobody waits for a guest that does not listen: what is typed beyond a limit is
lost, unless the typist asks for room first.
"""

from __future__ import annotations

import threading

from rondo_tools.vmm.bus import Locked
from rondo_tools.vmm.devices.serial import Serial

LIMIT = 64 << 10  # bytes that wait
_PIECE = 64  # bytes that the port is given at a time


class Keyboard:
    """One serial port's. The port's lock guards what waits."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._room = threading.Event()
        self._room.set()
        self._closed = False
        self._port: tuple[Serial, Locked] | None = None

    def connect(self, serial: Serial, lock: Locked) -> None:
        """Type to this port from now on."""
        self._port = serial, lock

    def drained(self) -> None:
        """The port has no more input and wants some; its lock is held."""
        if self._port is not None and self._waiting:
            piece = bytes(self._waiting[:_PIECE])
            del self._waiting[:_PIECE]
            self._port[0].receive(piece)
        if len(self._waiting) <= LIMIT // 2:
            self._room.set()

    def type(self, data: bytes) -> None:
        """Pass on `data`, from any thread; never waits."""
        if self._port is None or self._closed:
            return
        serial, lock = self._port
        with lock:
            self._waiting += data[: LIMIT - len(self._waiting)]
            if len(self._waiting) > LIMIT // 2:
                self._room.clear()
            if serial.hungry:
                self.drained()

    def wait_for_room(self) -> None:
        """Wait until half of the limit may be typed without loss, or the VM has ended."""
        if not self._closed:
            self._room.wait()

    def close(self) -> None:
        """The VM has ended: nobody waits any more."""
        self._closed = True
        self._room.set()
