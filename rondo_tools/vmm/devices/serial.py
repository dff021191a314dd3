"""A 16550 serial port: the guest's console output and keyboard input.

Strategy: the transmitter is always empty, because a byte is taken when it is written. So "transmitter
empty" is an event: pending from a write, or from enabling its interrupt, until the driver has read the
interrupt's identification. Received bytes wait in a queue. `on_drained` is called when the queue is
empty and the driver has enabled the receive interrupt; a driver that is still setting up the port would
discard input. `interrupt` is called with the level of the interrupt line when it changes.

By default output is passed on in whole lines, so that a console shared with a log is not torn within a
line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rondo_tools.vmm.bus import ones

# Offsets; the first two are the divisor while DLAB is set.
_DATA, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)

_IER_RECEIVED = 0x01
_IER_EMPTY = 0x02
_IER_BITS = 0x0F
_LCR_DLAB = 0x80
_FCR_ENABLE = 0x01
_FCR_CLEAR_RECEIVED = 0x02
_IIR_NONE = 0x01  # no interrupt pending
_IIR_EMPTY = 0x02
_IIR_RECEIVED = 0x04
_IIR_FIFOS = 0xC0
_LSR_RECEIVED = 0x01
_LSR_IDLE = 0x60  # THRE and TEMT: both transmit registers are empty
_MCR_OUT2 = 0x08  # on a PC, the gate of the interrupt line
_MCR_LOOP = 0x10
_MSR_READY = 0xB0  # carrier, data set ready, clear to send

_LINE = 1024  # bytes; a longer line is passed on in parts
_LOOPED = 16  # bytes of the FIFO in loopback; more are lost, as in hardware


class Serial:
    """Eight bytes of registers. `write_out` gets whole lines with their newline, or single bytes if
    `by_line` is False."""

    def __init__(
        self,
        write_out: Callable[[bytes], None],
        interrupt: Callable[[bool], None] = lambda level: None,  # noqa: ARG005
        on_drained: Callable[[], None] = lambda: None,
        *,
        by_line: bool = True,
    ) -> None:
        self._write_out = write_out
        self._interrupt = interrupt
        self._on_drained = on_drained
        self._by_line = by_line
        self._line = bytearray()
        self._received: deque[int] = deque()
        self._empty = False  # the event "transmitter empty" is pending
        self._level = False
        self._listening = False  # the driver has enabled the receive interrupt
        self._registers = bytearray(8)  # the values written, for registers that read back
        self._divisor = bytearray(2)

    @property
    def hungry(self) -> bool:
        """The queue is empty, and the driver has enabled the receive interrupt."""
        return self._listening and not self._received

    def receive(self, data: bytes) -> None:
        """Add input for the guest."""
        self._received.extend(data)
        self._update()

    def read(self, offset: int, size: int) -> int:
        if size != 1:
            return ones(size)
        if offset <= _IER and self._registers[_LCR] & _LCR_DLAB:
            return self._divisor[offset]
        if offset == _DATA:
            return self._take()
        if offset == _IIR_FCR:
            return self._identify()
        if offset == _LSR:
            return _LSR_IDLE | (_LSR_RECEIVED if self._received else 0)
        if offset == _MSR:
            return self._modem_status()
        return self._registers[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 1:
            return
        if offset <= _IER and self._registers[_LCR] & _LCR_DLAB:
            self._divisor[offset] = value
            return
        if offset == _DATA:
            self._transmit(value)
            self._empty = True
        elif offset == _IER:
            # Enabling the interrupt raises it: the transmitter is empty.
            self._empty |= bool(value & ~self._registers[_IER] & _IER_EMPTY)
            self._registers[_IER] = value & _IER_BITS
        elif offset not in (_LSR, _MSR):
            self._registers[offset] = value
            if offset == _IIR_FCR and value & _FCR_CLEAR_RECEIVED:
                self._received.clear()
                self._drained()
        self._update()

    def flush(self) -> None:
        """Pass on an incomplete line."""
        if self._line:
            self._write_out(bytes(self._line))
            self._line.clear()

    def _transmit(self, value: int) -> None:
        if self._registers[_MCR] & _MCR_LOOP:
            if len(self._received) < _LOOPED:
                self._received.append(value)
            return
        self._line.append(value)
        if value == 0x0A or not self._by_line or len(self._line) >= _LINE:
            self.flush()

    def _take(self) -> int:
        if not self._received:
            return 0
        value = self._received.popleft()
        self._drained()
        self._update()
        return value

    def _drained(self) -> None:
        if self.hungry:
            self._on_drained()

    def _identify(self) -> int:
        """The pending interrupt; reading it clears "transmitter empty"."""
        fifos = _IIR_FIFOS if self._registers[_IIR_FCR] & _FCR_ENABLE else 0
        enabled = self._registers[_IER]
        if enabled & _IER_RECEIVED and self._received:
            return _IIR_RECEIVED | fifos
        if enabled & _IER_EMPTY and self._empty:
            self._empty = False
            self._update()
            return _IIR_EMPTY | fifos
        return _IIR_NONE | fifos

    def _update(self) -> None:
        """Update the interrupt line."""
        enabled = self._registers[_IER]
        # In loopback the interrupt line is disconnected, like the modem.
        gate = self._registers[_MCR] & (_MCR_OUT2 | _MCR_LOOP) == _MCR_OUT2
        listening = gate and bool(enabled & _IER_RECEIVED)
        level = (listening and bool(self._received)) or (gate and bool(enabled & _IER_EMPTY) and self._empty)
        if level != self._level:
            self._level = level
            self._interrupt(level)
        if listening != self._listening:
            self._listening = listening
            self._drained()

    def _modem_status(self) -> int:
        control = self._registers[_MCR]
        if not control & _MCR_LOOP:
            return _MSR_READY
        # In loopback the outputs DTR, RTS, OUT1, OUT2 are wired to DSR, CTS, RI, DCD.
        return (control & 2) << 3 | (control & 1) << 5 | (control & 0xC) << 4
