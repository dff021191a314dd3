"""The serial port: output in lines, and the registers of a 16550."""

from __future__ import annotations

from rondo_tools.vmm.devices.serial import Serial

DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)


def say(port: Serial, text: bytes) -> None:
    for byte in text:
        assert port.read(LSR, 1) & 0x20, "there is room in the transmitter"
        port.write(DATA, 1, byte)


def test_lines_come_out_whole() -> None:
    out: list[bytes] = []
    port = Serial(out.append)
    say(port, b"one\ntw")
    assert out == [b"one\n"]
    say(port, b"o\n")
    say(port, b"login: ")
    assert out == [b"one\n", b"two\n"]
    port.flush()
    port.flush()
    assert out == [b"one\n", b"two\n", b"login: "]


def test_an_endless_line_is_passed_on_in_bounded_parts() -> None:
    out: list[bytes] = []
    port = Serial(out.append)
    say(port, b"x" * 5000)
    port.flush()
    assert b"".join(out) == b"x" * 5000
    assert max(map(len, out)) <= 1024


def test_the_divisor_hides_data_and_interrupt_enable() -> None:
    out: list[bytes] = []
    port = Serial(out.append)
    port.write(IER, 1, 5)
    port.write(LCR, 1, 0x83)
    port.write(DATA, 1, 0x0C)
    port.write(IER, 1, 0x01)
    assert (port.read(DATA, 1), port.read(IER, 1), port.read(LCR, 1)) == (0x0C, 0x01, 0x83)
    port.write(LCR, 1, 0x03)
    assert (port.read(DATA, 1), port.read(IER, 1)) == (0, 5)
    port.flush()
    assert out == []


def test_a_driver_that_probes_finds_a_16550a() -> None:
    port = Serial(lambda text: None)
    port.write(SCR, 1, 0x5A)
    assert port.read(SCR, 1) == 0x5A
    assert port.read(IIR_FCR, 1) == 0x01
    port.write(IIR_FCR, 1, 0x01)
    assert port.read(IIR_FCR, 1) == 0xC1
    port.write(MCR, 1, 0x1A)  # loopback with RTS and OUT2: CTS and DCD must show
    assert port.read(MSR, 1) & 0xF0 == 0x90
    port.write(MCR, 1, 0x15)  # DTR and OUT1: DSR and RI
    assert port.read(MSR, 1) & 0xF0 == 0x60
    port.write(MCR, 1, 0x0B)
    assert port.read(MSR, 1) == 0xB0


def test_loopback_prints_nothing_and_status_registers_take_no_writes() -> None:
    out: list[bytes] = []
    port = Serial(out.append)
    port.write(MCR, 1, 0x10)
    port.write(DATA, 1, 0x0A)
    port.write(LSR, 1, 0)
    assert (out, port.read(LSR, 1)) == ([], 0x61)
    assert (port.read(DATA, 1), port.read(LSR, 1)) == (0x0A, 0x60)  # it came back


def test_wide_accesses_do_nothing() -> None:
    out: list[bytes] = []
    port = Serial(out.append)
    port.write(DATA, 4, 0x0A0A0A0A)
    assert port.read(LSR, 2) == 0xFFFF
    assert out == []


class Wired:
    """A port with its output, its interrupt line, and the number of its requests for input."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.levels: list[bool] = []
        self.asked = 0
        self.port = Serial(self.out.append, self.levels.append, self._ask, by_line=False)

    def _ask(self) -> None:
        self.asked += 1

    def level(self) -> bool:
        return bool(self.levels) and self.levels[-1]

    def enable(self, interrupts: int) -> None:
        self.port.write(MCR, 1, 0x08)
        self.port.write(IER, 1, interrupts)


def test_without_line_mode_each_byte_is_passed_on_at_once() -> None:
    wired = Wired()
    say(wired.port, b"ab")
    assert wired.out == [b"a", b"b"]


def test_the_transmitter_interrupts_when_enabled_and_after_each_byte() -> None:
    wired = Wired()
    wired.enable(0x02)
    assert wired.level(), "it is empty already"
    assert wired.port.read(IIR_FCR, 1) & 0x0F == 0x02
    assert not wired.level(), "reading which it was settles it"
    assert wired.port.read(IIR_FCR, 1) & 0x0F == 0x01
    wired.port.write(DATA, 1, 0x41)
    assert wired.level()
    wired.port.write(IER, 1, 0)
    assert not wired.level()
    wired.port.write(IER, 1, 0x02)
    assert wired.level()
    assert wired.levels == [True, False, True, False, True], "told of changes only"


def test_received_bytes_interrupt_until_they_are_read() -> None:
    wired = Wired()
    wired.enable(0x01)
    wired.port.receive(b"xy")
    assert wired.level()
    assert wired.port.read(IIR_FCR, 1) & 0x0F == 0x04
    assert wired.port.read(LSR, 1) == 0x61
    assert (wired.port.read(DATA, 1), wired.level()) == (ord("x"), True)
    assert (wired.port.read(DATA, 1), wired.level()) == (ord("y"), False)
    assert wired.port.read(LSR, 1) == 0x60
    assert wired.port.read(DATA, 1) == 0


def test_a_port_that_is_not_read_requests_no_input() -> None:
    wired = Wired()
    wired.port.write(IER, 1, 0x0F)  # a driver that looks which port this is
    wired.port.write(IER, 1, 0)
    wired.port.write(IIR_FCR, 1, 0x07)
    assert wired.asked == 0
    wired.enable(0x01)
    assert wired.asked == 1
    wired.port.receive(b"xy")
    wired.port.read(DATA, 1)
    assert wired.asked == 1
    wired.port.read(DATA, 1)
    assert wired.asked == 2


def test_clearing_the_receiver_discards_waiting_bytes() -> None:
    wired = Wired()
    wired.enable(0x01)
    wired.port.receive(b"xy")
    wired.port.write(IIR_FCR, 1, 0x03)
    assert (wired.level(), wired.port.read(LSR, 1), wired.asked) == (False, 0x60, 2)


def test_without_its_gate_and_in_loopback_there_is_no_interrupt() -> None:
    wired = Wired()
    wired.port.write(IER, 1, 0x03)
    wired.port.receive(b"x")
    assert not wired.level()
    wired.port.write(MCR, 1, 0x18)
    assert not wired.level()
    wired.port.write(MCR, 1, 0x08)
    assert wired.level()


def test_loopback_keeps_at_most_a_fifo() -> None:
    wired = Wired()
    wired.port.write(MCR, 1, 0x10)
    for value in range(100):
        wired.port.write(DATA, 1, value)
    assert [wired.port.read(DATA, 1) for _ in range(17)] == [*range(16), 0]
