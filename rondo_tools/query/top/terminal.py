"""A terminal, taken over for a full screen and restored: at the end, before a stop, on any error.

Strategy: the alternate screen preserves the terminal's content. Keys arrive one by one without echo, but
Ctrl-C and Ctrl-Z still send signals. Only the changed lines of a frame are written, in one write, each at
its position, so nothing scrolls, and nothing flickers over a slow connection.
"""

from __future__ import annotations

import codecs
import os
import select
import signal
import sys
import termios
from types import TracebackType
from typing import Any, Self

# The alternate screen, no cursor, no wrapping; and back.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_KEYS = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "OA": "up", "OB": "down", "OC": "right",
    "OD": "left", "[H": "home", "OH": "home", "[1~": "home", "[5~": "pageup", "[6~": "pagedown",
}  # fmt: skip
_NAMES = {"\x1b": "esc", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}
_REST_OF_A_KEY_S = 0.05
_SMALLEST, _LARGEST = 1, 1000


class Keys:
    """Recognizes keys in a terminal's input, which may arrive in any pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def is_amid(self) -> bool:
        """Whether an incomplete key may be pending."""
        return bool(self._rest)

    def take(self, data: bytes) -> list[str]:
        """The complete keys."""
        text, self._rest = self._rest + self._decoder.decode(data), ""
        found, at = [], 0
        while at < len(text):
            if text[at] != "\x1b":
                found.append(_NAMES.get(text[at], text[at]))
                at += 1
                continue
            end = _end_of_sequence(text, at + 1)
            if end < 0:
                self._rest = text[at:]
                break
            if (key := _KEYS.get(text[at + 1 : end])) is not None:
                found.append(key)
            elif end == at + 1:
                found.append("esc")
            at = end
        return found

    def give_up(self) -> list[str]:
        """Nothing more has arrived: the pending input is Escape, or an unknown sequence."""
        is_escape, self._rest = self._rest == "\x1b", ""
        return ["esc"] if is_escape else []


def _end_of_sequence(text: str, at: int) -> int:
    """The end of the sequence after an Escape; -1 if it may be incomplete."""
    if at == len(text):
        return -1
    if text[at] == "O":
        return at + 2 if at + 1 < len(text) else -1
    if text[at] != "[":
        return at
    for end in range(at + 1, len(text)):
        if "@" <= text[end] <= "~":
            return end + 1
    return -1


class Terminal:
    """While entered, the screen is taken over. `keys` and `output` are descriptors of the terminal."""

    def __init__(self, keys: int, output: int, encoding: str = "utf-8") -> None:
        self.keys, self._output, self._encoding = keys, output, encoding
        self._parser = Keys()
        self._modes: list[Any] | None = None  # to restore
        self._drawn: list[str] = []
        self._size = 0, 0

    def __enter__(self) -> Self:
        try:
            self._take_over()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._output)
        except OSError:
            return 80, 24
        columns, lines = size.columns or 80, size.lines or 24  # 0: the size is not set
        return max(_SMALLEST, min(columns, _LARGEST)), max(_SMALLEST, min(lines, _LARGEST))

    def draw(self, lines: list[str], size: tuple[int, int]) -> None:
        """Draw these lines, which fill a screen of that size."""
        changed = []
        if size != self._size:
            changed.append("\x1b[2J")
            self._drawn, self._size = [], size
        for number, line in enumerate(lines):
            if number >= len(self._drawn) or self._drawn[number] != line:
                changed.append(f"\x1b[{number + 1};1H{line}")
        self._drawn = lines
        if changed:
            self._write("".join(changed))

    def read(self) -> list[str]:
        """The pressed keys, if any. Raises EOFError if the terminal is gone."""
        found: list[str] = []
        wait_s = 0.0
        while select.select([self.keys], [], [], wait_s)[0]:
            try:
                data = os.read(self.keys, 1024)
            except OSError:
                data = b""
            if not data:
                raise EOFError
            found += self._parser.take(data)
            wait_s = _REST_OF_A_KEY_S if self._parser.is_amid else 0.0
        return found + self._parser.give_up()

    def stop(self) -> None:
        """Restore the screen, stop like a process that does not handle Ctrl-Z, and take the screen over
        again when we are continued."""
        self._give_back()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.kill(os.getpid(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, before)
        self._take_over()

    def take_over_again(self) -> None:
        """Take the screen over after a stop that we did not handle."""
        self._give_back()
        self._take_over()

    def _take_over(self) -> None:
        try:
            self._modes = termios.tcgetattr(self.keys)
            termios.tcsetattr(self.keys, termios.TCSADRAIN, _key_by_key(self._modes))
        except termios.error as exc:
            raise OSError(*exc.args) from exc  # the terminal is gone
        self._write(_ENTER)
        self._size = 0, 0  # the next frame is drawn whole

    def _give_back(self) -> None:
        modes, self._modes = self._modes, None
        if modes is None:
            return
        try:
            self._write(_LEAVE)
            termios.tcsetattr(self.keys, termios.TCSADRAIN, modes)
        except (OSError, termios.error):
            pass  # the terminal is gone

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._output, data) :]


def _key_by_key(modes: list[Any]) -> list[Any]:
    """Modes for keys at once, without echo. Ctrl-S does not stop the screen; signals and output are kept."""
    iflag, oflag, cflag, lflag, *rest = modes
    iflag &= ~(termios.IXON | termios.ICRNL)
    lflag &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    special = list(rest[-1])
    special[termios.VMIN], special[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, *rest[:-1], special]


def is_usable(environ: dict[str, str]) -> bool:
    """Whether there is a terminal that can show a full screen and read keys."""
    return environ.get("TERM", "dumb") not in ("", "dumb") and sys.stdin.isatty() and sys.stdout.isatty()
