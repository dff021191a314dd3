"""The virtio-mmio transport (virtio 1.2, 4.2.2): registers between a driver and one device.

Strategy: a state machine that follows the driver through the initialization of 3.1.1, in order. A
harmless error (a write too early, an unknown register, an access of the wrong size) has no effect. An
error after which device and driver disagree about the queue sets DEVICE_NEEDS_RESET, and no request is
served until the driver resets the device. Both cause a rate-limited warning.

Requests are served inside the notification: they are complete when the driver's write returns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from rondo_tools.ratelimit import RateLimit
from rondo_tools.vmm.devices.virtio.queue import Chain, Queue, QueueError
from rondo_tools.vmm.memory import GuestMemory, MemoryFault

_log = logging.getLogger(__name__)

VERSION_1 = 1 << 32  # VIRTIO_F_VERSION_1: required of the driver


class Register:
    """Offsets of the registers, 32 bits each."""

    MAGIC = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


class Status:
    """Bits of the status register (virtio 1.2, 2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


# The initialization (3.1.1): the bits that are set -> the bit that the driver may set next. The only other
# transitions are a reset, which clears all bits, and FAILED and NEEDS_RESET, which may be set at any time.
_FOUND = Status.ACKNOWLEDGE | Status.DRIVER
_NEXT = {
    0: Status.ACKNOWLEDGE,
    Status.ACKNOWLEDGE: Status.DRIVER,
    _FOUND: Status.FEATURES_OK,
    _FOUND | Status.FEATURES_OK: Status.DRIVER_OK,
    _FOUND | Status.FEATURES_OK | Status.DRIVER_OK: None,
}
_INITIALIZATION = max(_NEXT)

_MAGIC = 0x74726976  # "virt"
_VERSION = 2
_VENDOR = 0x6F646E72  # "rndo"
_QUEUE_USED = 1  # bits of the interrupt status
_CONFIG_CHANGED = 2
_LOW = 0xFFFF_FFFF


class VirtioDevice(Protocol):
    """A device behind the transport: it has one queue and handles its chains."""

    device_id: int
    features: int  # of this kind of device; the transport adds VERSION_1
    config: bytes  # the configuration space; constant
    queue_max: int

    def accept(self, features: int) -> None:
        """The driver has negotiated these features."""

    def handle(self, chain: Chain) -> int:
        """Serve a chain; return the bytes written to it. Raises QueueError, MemoryFault if invalid."""


class MmioTransport:
    """0x100 bytes of registers, then the device's configuration space. `interrupt` is called when a bit of
    the interrupt status is set: for a used buffer, unless the driver disabled that, or for a failure."""

    def __init__(
        self, device: VirtioDevice, memory: GuestMemory, interrupt: Callable[[], None] = lambda: None
    ) -> None:
        self._device = device
        self._offered = device.features | VERSION_1
        self._interrupt = interrupt
        self._queue = Queue(memory, device.queue_max)
        self._limit = RateLimit(_log, burst=5, window_s=10.0)
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._interrupt_status = 0
        self._driver_features = 0
        self._device_features_sel = 0
        self._driver_features_sel = 0
        self._queue_sel = 0
        self._queue.reset()

    def read(self, offset: int, size: int) -> int:
        if offset >= Register.CONFIG:
            at = offset - Register.CONFIG
            return int.from_bytes(self._device.config[at : at + size], "little")
        if size != 4 or offset & 3:
            self._warn("a read of %d bytes at %#x; registers have 4", size, offset)
            return 0
        if offset == Register.INTERRUPT_STATUS:  # first, because every request reads it
            return self._interrupt_status
        return self._read_register(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= Register.CONFIG:
            return  # all of it is read-only
        if size != 4 or offset & 3:
            self._warn("a write of %d bytes at %#x; registers have 4", size, offset)
        elif offset == Register.QUEUE_NOTIFY:  # these two first, because every request writes them
            self._notify(value)
        elif offset == Register.INTERRUPT_ACK:
            self._interrupt_status &= ~value
        elif offset >= Register.QUEUE_DESC_LOW or offset in (Register.QUEUE_NUM, Register.QUEUE_READY):
            self._write_queue(offset, value)
        else:
            self._write_register(offset, value)

    def _read_register(self, offset: int) -> int:
        selected = self._queue_sel == 0
        match offset:
            case Register.MAGIC:
                return _MAGIC
            case Register.VERSION:
                return _VERSION
            case Register.DEVICE_ID:
                return self._device.device_id
            case Register.VENDOR_ID:
                return _VENDOR
            case Register.DEVICE_FEATURES:
                return _word(self._offered, self._device_features_sel)
            case Register.QUEUE_NUM_MAX:
                return self._queue.size_max if selected else 0
            case Register.QUEUE_READY:
                return int(selected and self._queue.ready)
            case Register.STATUS:
                return self._status
            case Register.SHM_LEN_LOW | Register.SHM_LEN_HIGH:
                return _LOW  # there is no shared memory
            case _:
                return 0  # CONFIG_GENERATION too: the configuration is constant

    def _write_register(self, offset: int, value: int) -> None:
        match offset:
            case Register.STATUS:
                self._set_status(value)
            case Register.DEVICE_FEATURES_SEL:
                self._device_features_sel = value
            case Register.DRIVER_FEATURES_SEL:
                self._driver_features_sel = value
            case Register.DRIVER_FEATURES:
                self._set_features(value)
            case Register.QUEUE_SEL:
                self._queue_sel = value
            case _:
                self._warn("a write to %#x, which is no writable register", offset)

    def _set_status(self, value: int) -> None:
        """Take the steps of `_NEXT` that the driver asks for, one or several."""
        if value == 0:
            self._reset()
            return
        self._status |= value & Status.FAILED
        while (bit := _NEXT.get(self._status & _INITIALIZATION)) is not None and value & bit:
            if bit == Status.FEATURES_OK and not self._accept_features():
                return  # the driver reads the status back, and finds that the bit is not set
            self._status |= bit
        out_of_order = value & _INITIALIZATION & ~self._status
        if out_of_order & Status.DRIVER_OK:
            self._status |= Status.DRIVER_OK
            self._fail("DRIVER_OK before FEATURES_OK")
        elif out_of_order:
            self._warn("status bits %#x set before the ones that precede them", out_of_order)

    def _accept_features(self) -> bool:
        features = self._driver_features
        if features & ~self._offered or not features & VERSION_1:
            self._warn("the driver selected features %#x of %#x", features, self._offered)
            return False
        self._device.accept(features)
        return True

    def _set_features(self, value: int) -> None:
        if self._status & Status.FEATURES_OK:
            self._warn("features written after FEATURES_OK")
        elif self._driver_features_sel < 2:
            shift = 32 * self._driver_features_sel
            self._driver_features = self._driver_features & ~(_LOW << shift) | value << shift

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self._queue
        if self._queue_sel != 0 or not self._status & Status.FEATURES_OK:
            self._warn("a write to %#x for a queue that does not exist, or before FEATURES_OK", offset)
        elif offset == Register.QUEUE_READY:
            self._set_ready(value)
        elif queue.ready:
            self._warn("a write to %#x while the queue is ready", offset)
        elif offset == Register.QUEUE_NUM:
            queue.size = value
        elif offset == Register.QUEUE_DESC_LOW:
            queue.descriptors = queue.descriptors & ~_LOW | value
        elif offset == Register.QUEUE_DESC_HIGH:
            queue.descriptors = queue.descriptors & _LOW | value << 32
        elif offset == Register.QUEUE_DRIVER_LOW:
            queue.driver = queue.driver & ~_LOW | value
        elif offset == Register.QUEUE_DRIVER_HIGH:
            queue.driver = queue.driver & _LOW | value << 32
        elif offset == Register.QUEUE_DEVICE_LOW:
            queue.device = queue.device & ~_LOW | value
        elif offset == Register.QUEUE_DEVICE_HIGH:
            queue.device = queue.device & _LOW | value << 32
        else:
            self._warn("a write to %#x, which is no writable register", offset)

    def _set_ready(self, value: int) -> None:
        if not value & 1:
            self._queue.reset()
            return
        try:
            self._queue.enable()
        except (QueueError, MemoryFault) as exc:
            self._fail(str(exc))

    def _notify(self, index: int) -> None:
        if self._status & (Status.DRIVER_OK | Status.NEEDS_RESET) != Status.DRIVER_OK:
            self._warn("a notification before DRIVER_OK, or while the device needs a reset")
            return
        queue = self._queue
        if index != 0 or not queue.ready:
            self._warn("a notification for queue %d, which is not ready", index)
            return
        served = False
        try:
            for chain in queue.chains():
                queue.complete(chain.head, self._device.handle(chain))
                served = True
            if served and queue.interrupt_wanted():
                self._raise(_QUEUE_USED)
        except (QueueError, MemoryFault) as exc:
            self._fail(str(exc))

    def _fail(self, why: str) -> None:
        self._warn("the driver must reset the device: %s", why)
        self._status |= Status.NEEDS_RESET
        if self._status & Status.DRIVER_OK:
            self._raise(_CONFIG_CHANGED)

    def _raise(self, bit: int) -> None:
        self._interrupt_status |= bit
        self._interrupt()

    def _warn(self, message: str, *values: object) -> None:
        self._limit.warn("virtio", f"virtio: {message}", *values)


def _word(value: int, select: int) -> int:
    """The `select`th 32 bits of `value`."""
    return value >> 32 * select & _LOW if select < 2 else 0
