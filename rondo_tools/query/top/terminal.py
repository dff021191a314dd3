"""A terminal, taken over for a full screen and given back: on leaving, before a stop, on any error.

Strategy: the alternate screen keeps what stood there. Keys come one by one and unseen, but signals stay
what they are (Ctrl-C, Ctrl-Z). Of a frame only the lines that changed are written, in one write, each at
its place, so nothing scrolls and nothing flickers over a slow line.
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
    """Tells keys apart in what a terminal sends, which may come in any pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def is_amid(self) -> bool:
        """Whether a key may have begun that is not whole."""
        return bool(self._rest)

    def take(self, data: bytes) -> list[str]:
        """The keys that are whole."""
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
        """Nothing more has come: what there is was Escape, or nothing that we know."""
        is_escape, self._rest = self._rest == "\x1b", ""
        return ["esc"] if is_escape else []


def _end_of_sequence(text: str, at: int) -> int:
    """Where the sequence behind an Escape ends; -1 if it may go on."""
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
    """While entered, the screen is ours. `keys` and `output` are descriptors of the terminal."""

    def __init__(self, keys: int, output: int, encoding: str = "utf-8") -> None:
        self.keys, self._output, self._encoding = keys, output, encoding
        self._parser = Keys()
        self._modes: list[Any] | None = None  # those to go back to
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
        columns, lines = size.columns or 80, size.lines or 24  # 0: nobody has set it
        return max(_SMALLEST, min(columns, _LARGEST)), max(_SMALLEST, min(lines, _LARGEST))

    def draw(self, lines: list[str], size: tuple[int, int]) -> None:
        """Show these lines, which fill a screen of that size."""
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
        """The keys that were pressed; none if the terminal has nothing. Raises EOFError if it is gone."""
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
        """Give the screen back, stop as Ctrl-Z stops whoever does not handle it, and take it over again
        when we are continued."""
        self._give_back()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.kill(os.getpid(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, before)
        self._take_over()

    def take_over_again(self) -> None:
        """We were stopped without being asked, and are continued."""
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
            pass  # the terminal is gone, and nobody looks at it any more

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._output, data) :]


def _key_by_key(modes: list[Any]) -> list[Any]:
    """Keys at once and unseen. Ctrl-S does not stop the screen; signals and output stay as they were."""
    iflag, oflag, cflag, lflag, *rest = modes
    iflag &= ~(termios.IXON | termios.ICRNL)
    lflag &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    special = list(rest[-1])
    special[termios.VMIN], special[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, *rest[:-1], special]


def is_usable(environ: dict[str, str]) -> bool:
    """Whether there is a terminal that can show a full screen, and takes keys."""
    return environ.get("TERM", "dumb") not in ("", "dumb") and sys.stdin.isatty() and sys.stdout.isatty()
