"""A 16550 serial port for polled output: what a guest prints, in whole lines.

Strategy: the transmitter is always empty (a byte is taken the moment it is written), the receiver
always too, and no interrupt is ever pending. Bytes are gathered until a line is complete, so that
a console shared with a log is not torn within a line.
"""

from __future__ import annotations

from collections.abc import Callable

from rondo_tools.vmm.bus import ones

# Offsets; the first two are the divisor while DLAB is set.
_DATA, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)

_LCR_DLAB = 0x80
_FCR_ENABLE = 0x01
_IIR_NONE = 0x01  # no interrupt pending
_IIR_FIFOS = 0xC0
_LSR_IDLE = 0x60  # THRE and TEMT: both transmit registers are empty
_MCR_LOOP = 0x10
_MSR_READY = 0xB0  # carrier, data set ready, clear to send: somebody listens

_LINE = 1024  # bytes; a longer line is passed on in pieces


class Serial:
    """Eight bytes of registers. `write_out` is given whole lines, the newline included."""

    def __init__(self, write_out: Callable[[bytes], None]) -> None:
        self._write_out = write_out
        self._line = bytearray()
        self._registers = bytearray(8)  # what was written, for those that read back
        self._divisor = bytearray(2)

    def read(self, offset: int, size: int) -> int:
        if size != 1:
            return ones(size)
        if offset <= _IER and self._registers[_LCR] & _LCR_DLAB:
            return self._divisor[offset]
        if offset == _DATA:
            return 0
        if offset == _IIR_FCR:
            fifos = _IIR_FIFOS if self._registers[_IIR_FCR] & _FCR_ENABLE else 0
            return _IIR_NONE | fifos
        if offset == _LSR:
            return _LSR_IDLE
        if offset == _MSR:
            return self._modem_status()
        return self._registers[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 1:
            return
        if offset <= _IER and self._registers[_LCR] & _LCR_DLAB:
            self._divisor[offset] = value
        elif offset == _DATA:
            self._transmit(value)
        elif offset not in (_LSR, _MSR):
            self._registers[offset] = value

    def flush(self) -> None:
        """Pass on a line that was begun: the VM has ended, no more of it will come."""
        if self._line:
            self._write_out(bytes(self._line))
            self._line.clear()

    def _transmit(self, value: int) -> None:
        if self._registers[_MCR] & _MCR_LOOP:
            return  # wired to the receiver, which this port has none of
        self._line.append(value)
        if value == 0x0A or len(self._line) >= _LINE:
            self.flush()

    def _modem_status(self) -> int:
        control = self._registers[_MCR]
        if not control & _MCR_LOOP:
            return _MSR_READY
        # In loopback the outputs DTR, RTS, OUT1, OUT2 are wired to DSR, CTS, RI, DCD.
        return (control & 2) << 3 | (control & 1) << 5 | (control & 0xC) << 4
