"""The serial port: what a guest prints comes out in lines, and its driver finds a 16550."""

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


def test_a_line_without_end_is_passed_on_in_bounded_pieces() -> None:
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
    assert (out, port.read(LSR, 1)) == ([], 0x60)


def test_wide_accesses_do_nothing() -> None:
    out: list[bytes] = []
    port = Serial(out.append)
    port.write(DATA, 4, 0x0A0A0A0A)
    assert port.read(LSR, 2) == 0xFFFF
    assert out == []
