"""The virtio entropy device (virtio 1.2, 5.4): random bytes from the host."""

from __future__ import annotations

import os

from rondo_tools.vmm.devices.virtio.queue import Chain
from rondo_tools.vmm.memory import GuestMemory

DEVICE_ID = 4
QUEUE_MAX = 8
MAX_REQUEST = 64 << 10  # bytes; bounds the time that one request takes


class Rng:
    """Fills the writable segments of a chain, up to a limit."""

    device_id = DEVICE_ID
    queue_max = QUEUE_MAX
    features = 0
    config = b""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def accept(self, features: int) -> None:
        """There are no features to negotiate."""

    def handle(self, chain: Chain) -> int:
        left = MAX_REQUEST
        for address, length in chain.writable:
            size = min(length, left)
            self._memory.write(address, os.urandom(size))
            left -= size
        return MAX_REQUEST - left
