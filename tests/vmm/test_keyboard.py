"""What is typed: whole and in order for a guest that reads, bounded for one that does not."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.vmm.bus import Locked
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.keyboard import LIMIT, Keyboard
from tests.support.needs import PATIENCE_S

DATA, IER, _, _, MCR, LSR = range(6)


class Guest:
    """A driver of the port."""

    def __init__(self) -> None:
        self.keyboard = Keyboard()
        serial = Serial(lambda data: None, on_drained=self.keyboard.drained)
        self.port = Locked(serial)
        self.keyboard.connect(serial, self.port)

    def listen(self) -> None:
        self.port.write(MCR, 1, 8)
        self.port.write(IER, 1, 1)

    def read(self, most: int = 1 << 20) -> bytes:
        data = bytearray()
        while len(data) < most and self.port.read(LSR, 1) & 1:
            data.append(self.port.read(DATA, 1))
        return bytes(data)


@given(st.lists(st.one_of(st.binary(max_size=200), st.integers(0, 100)), max_size=20), st.booleans())
def test_input_arrives_complete_and_in_order(steps: list[bytes | int], listening: bool) -> None:
    guest = Guest()
    if listening:
        guest.listen()
    typed = read = b""
    for step in steps:
        if isinstance(step, bytes):
            guest.keyboard.type(step)
            typed += step
        else:
            read += guest.read(step)
    assert listening or not read, "nothing is lost to a driver that is not ready"
    guest.listen()
    assert read + guest.read() == typed


def test_a_guest_that_does_not_read_costs_bounded_memory_and_no_time() -> None:
    guest = Guest()
    for _ in range(100):
        guest.keyboard.type(bytes(4096))
    guest.listen()
    assert len(guest.read()) == LIMIT


def test_waiting_for_space_loses_no_input() -> None:
    guest = Guest()
    guest.listen()
    typed = bytes(range(256)) * 1024
    assert len(typed) > 2 * LIMIT

    def type_all() -> None:
        for at in range(0, len(typed), 4096):
            guest.keyboard.wait_for_space()
            guest.keyboard.type(typed[at : at + 4096])

    typist = threading.Thread(target=type_all)
    typist.start()
    read = b""
    while typist.is_alive():
        read += guest.read(1000)
    assert read + guest.read() == typed


def test_the_end_of_the_vm_releases_waiters() -> None:
    guest = Guest()
    guest.keyboard.type(bytes(LIMIT))
    typist = threading.Thread(target=guest.keyboard.wait_for_space)
    typist.start()
    guest.keyboard.close()
    typist.join(PATIENCE_S)
    assert not typist.is_alive()
    guest.keyboard.type(b"more")
