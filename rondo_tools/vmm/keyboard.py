"""The guest's keyboard: a buffer of input that the guest has not read yet.

Strategy: the buffer feeds the serial port in small pieces, whenever the port is empty and the guest reads
it: in the vCPU's thread, or in the caller's thread if the guest is already waiting. `type` never waits.
Input beyond a limit is lost, unless the caller waits for space first.
"""

from __future__ import annotations

import threading

from rondo_tools.vmm.bus import Locked
from rondo_tools.vmm.devices.serial import Serial

LIMIT = 64 << 10  # bytes of the buffer
_PIECE = 64  # bytes given to the port at a time


class Keyboard:
    """The keyboard of one serial port, whose lock guards the buffer."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._space = threading.Event()
        self._space.set()
        self._closed = False
        self._port: tuple[Serial, Locked] | None = None

    def connect(self, serial: Serial, lock: Locked) -> None:
        """Use this port from now on."""
        self._port = serial, lock

    def drained(self) -> None:
        """The port is empty and the guest reads it; the caller holds its lock."""
        if self._port is not None and self._waiting:
            piece = bytes(self._waiting[:_PIECE])
            del self._waiting[:_PIECE]
            self._port[0].receive(piece)
        if len(self._waiting) <= LIMIT // 2:
            self._space.set()

    def type(self, data: bytes) -> None:
        """Add `data` to the buffer, from any thread, without waiting."""
        if self._port is None or self._closed:
            return
        serial, lock = self._port
        with lock:
            self._waiting += data[: LIMIT - len(self._waiting)]
            if len(self._waiting) > LIMIT // 2:
                self._space.clear()
            if serial.hungry:
                self.drained()

    def wait_for_space(self) -> None:
        """Wait until half of the buffer is free, or the VM has ended."""
        if not self._closed:
            self._space.wait()

    def close(self) -> None:
        """The VM has ended: release all waiters."""
        self._closed = True
        self._space.set()
