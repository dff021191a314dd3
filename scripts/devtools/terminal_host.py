"""Runs a program on its own terminal: a real pty, and an emulator that keeps the screen."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import pyte

PATIENCE_S = 300.0  # bounds a hang


class Emulator(pyte.Screen):
    """Keeps the main screen while the alternate one is shown."""

    def __init__(self, columns: int, lines: int) -> None:
        self.is_alternate = False
        self._main: dict[int, Any] = {}
        super().__init__(columns, lines)

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        if 1049 in modes and kwargs.get("private"):
            self.is_alternate, self._main = True, {row: dict(line) for row, line in self.buffer.items()}
        super().set_mode(*modes, **kwargs)

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*modes, **kwargs)
        if 1049 in modes and kwargs.get("private"):
            self.is_alternate = False
            self.erase_in_display(2)
            for row, line in self._main.items():
                self.buffer[row].update(line)


class TerminalHost:
    """Runs `command` on a terminal of that size; a context manager."""

    def __init__(
        self, command: Sequence[str], columns: int = 80, lines: int = 24, env: dict[str, str] | None = None
    ) -> None:
        self.screen = Emulator(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = os.openpty()
        self._resize(columns, lines)
        self.modes_before = termios.tcgetattr(self._slave)
        self.written = bytearray()
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **(env or {})},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for fd in (self._master, self._slave):
            if fd >= 0:
                os.close(fd)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def hang_up(self) -> None:
        """Close the terminal, like closing its window."""
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def take(self, seconds: float = 0.05) -> bytes:
        """The program's output within `seconds`."""
        if not select.select([self._master], [], [], seconds)[0]:
            return b""
        data = os.read(self._master, 65536)
        self.written += data
        self._stream.feed(data)
        return data

    def until(self, is_so: Callable[[str], bool]) -> str:
        """Wait until the screen matches; returns it."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so(self.text):
            assert time.monotonic() < deadline, self.text
            self.take()
        return self.text

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if any, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            if self._master >= 0:
                self.take()
            else:
                time.sleep(0.01)
        while self._master >= 0 and self.take():
            pass
        return self.process.returncode

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
