"""Standard input as the guest's keyboard: a terminal in raw mode, or a file.

Strategy: a thread reads the input and passes it on. All keys of a terminal go to the guest, Ctrl-C too,
except Ctrl-A: Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends one Ctrl-A. A terminal is read even if the guest
does not read, so that Ctrl-A x always works. A file is passed on unchanged, as fast as the guest reads;
the end of the file does not end the VM.
"""

from __future__ import annotations

import os
import select
import termios
import threading
from collections.abc import Callable
from types import TracebackType

_ESCAPE = 0x01  # Ctrl-A
_QUIT = ord("x")


class Escapes:
    """Separates the guest's input from our escape sequences, across reads."""

    def __init__(self) -> None:
        self._escaped = False

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """The part of `data` that is for the guest, and whether the user asked to end the VM."""
        for_guest = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == _QUIT:
                    return bytes(for_guest), True
                if byte == _ESCAPE:
                    for_guest.append(byte)
            elif byte == _ESCAPE:
                self._escaped = True
            else:
                for_guest.append(byte)
        return bytes(for_guest), False


class Terminal:
    """While entered, a thread passes the input of `fd` to `type`; `on_quit` is called once, for Ctrl-A x.

    `wait_for_space` is called before each read of a file; it must return when the VM ends.
    """

    def __init__(
        self,
        fd: int,
        type: Callable[[bytes], None],
        on_quit: Callable[[], None],
        wait_for_space: Callable[[], None] = lambda: None,
    ) -> None:
        self._fd = fd
        self._type = type
        self._on_quit = on_quit
        self._wait_for_space = wait_for_space
        self._before: list[int | list[bytes | int]] | None = None
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._read, name="terminal", daemon=True)

    def __enter__(self) -> Terminal:
        if os.isatty(self._fd):
            self._before = termios.tcgetattr(self._fd)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, _raw(self._before))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        os.close(self._close)
        self._thread.join()
        os.close(self._closing)

    def _read(self) -> None:
        escapes = Escapes() if self._before is not None else None
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while True:
            if escapes is None:
                self._wait_for_space()
            ready = [fd for fd, _ in poll.poll()]
            if self._closing in ready:
                return
            try:
                data = os.read(self._fd, 4096)
            except OSError:
                return  # the terminal is gone; the VM keeps running
            if not data:
                return
            quitting = False
            if escapes:
                data, quitting = escapes.take(data)
            self._type(data)
            if quitting:
                self._on_quit()
                return


def _raw(attributes: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
    """Raw input without echo. Output modes stay, because our log shares the terminal."""
    iflag, oflag, cflag, lflag, *speeds_and_keys = attributes
    assert isinstance(iflag, int)
    assert isinstance(lflag, int)
    iflag &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.ISTRIP | termios.IXON)
    lflag &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    return [iflag, oflag, cflag, lflag, *speeds_and_keys]
