"""Standard input as a keyboard: a terminal is taken over and given back; a file is passed on whole."""

from __future__ import annotations

import os
import pty
import termios
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.vmm.terminal import Escapes, Terminal
from tests.support.needs import PATIENCE_S


class Typed:
    """What the guest got, and whether the user wanted to quit."""

    def __init__(self) -> None:
        self.data = b""
        self.arrived = threading.Condition()
        self.quit = threading.Event()

    def type(self, data: bytes) -> None:
        with self.arrived:
            self.data += data
            self.arrived.notify_all()

    def wait_for(self, data: bytes) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.data == data, PATIENCE_S), self.data


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, its = pty.openpty()
    yield ours, its
    os.close(ours)
    os.close(its)


def test_every_key_goes_to_the_guest_and_the_terminal_is_restored(terminal: tuple[int, int]) -> None:
    ours, its = terminal
    before = termios.tcgetattr(its)
    typed = Typed()
    with Terminal(its, typed.type, typed.quit.set):
        flags = termios.tcgetattr(its)[3]
        assert not flags & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert termios.tcgetattr(its)[1] == before[1], "our log still has its line ends"
        os.write(ours, b"\x03ls\r\x1a")
        typed.wait_for(b"\x03ls\r\x1a")
    assert termios.tcgetattr(its) == before
    assert not typed.quit.is_set()


def test_ctrl_a_x_quits(terminal: tuple[int, int]) -> None:
    ours, its = terminal
    typed = Typed()
    with Terminal(its, typed.type, typed.quit.set):
        os.write(ours, b"ab\x01x")
        assert typed.quit.wait(PATIENCE_S)
    assert typed.data == b"ab"


def test_the_terminal_is_restored_after_an_error(terminal: tuple[int, int]) -> None:
    before = termios.tcgetattr(terminal[1])
    typed = Typed()
    with pytest.raises(ZeroDivisionError), Terminal(terminal[1], typed.type, typed.quit.set):
        raise ZeroDivisionError
    assert termios.tcgetattr(terminal[1]) == before


def test_a_file_is_passed_on_unchanged_and_its_end_does_not_end_the_vm() -> None:
    reading, writing = os.pipe()
    typed = Typed()
    with Terminal(reading, typed.type, typed.quit.set):
        os.write(writing, b"\x01x and more")
        os.close(writing)
        typed.wait_for(b"\x01x and more")
    os.close(reading)
    assert not typed.quit.is_set()


@given(st.lists(st.sampled_from([b"a", b"x", b"\x01", b"\x01\x01", b"b\x01a"]), max_size=20))
def test_keys_may_be_split_across_reads(keys: list[bytes]) -> None:
    whole = Escapes().take(b"".join(keys))
    escapes, data, quitting = Escapes(), b"", False
    for key in keys:
        if not quitting:
            more, quitting = escapes.take(key)
            data += more
    assert (data, quitting) == whole


def test_ctrl_a_twice_sends_one_to_the_guest() -> None:
    assert Escapes().take(b"\x01\x01 \x01q\x01x") == (b"\x01 ", True)
