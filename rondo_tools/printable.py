"""Printable text: other characters are escaped as in a selector's string (``\\n``, ``\\u202e``).

Strategy: two separate steps. An unprintable character could mislead a terminal or a log, and is escaped by
the code that prints it. A printable character that the output's encoding lacks is escaped by the output:
`ERRORS` is the error handler for that, which the outputs of all tools have.
"""

from __future__ import annotations

import codecs

ERRORS = "rondo-escape"

_MAX_LINE = 2000  # characters


def escape(char: str) -> str:
    """One character, escaped as in a selector's string."""
    point = ord(char)
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"


def printable(text: str) -> str:
    """`text` in one line, with unprintable characters escaped: control characters, surrogates, bidi marks."""
    return text if text.isprintable() else "".join(c if c.isprintable() else escape(c) for c in text)


def message(text: str) -> str:
    """A message for people: its lines are kept, and very long ones shortened in the middle."""
    return "\n".join(_cut(printable(line)) for line in text.split("\n"))


def encodable(text: str, encoding: str | None) -> str:
    """`text` with the characters that `encoding` lacks escaped: it then has its width on the screen."""
    return text.encode(encoding or "utf-8", ERRORS).decode(encoding or "utf-8")


def _cut(line: str) -> str:
    half = _MAX_LINE // 2
    return line if len(line) <= _MAX_LINE else f"{line[:half]} ... {line[-half:]}"


def _handle(exc: UnicodeError) -> tuple[str, int]:
    if not isinstance(exc, UnicodeEncodeError):
        raise exc
    return "".join(map(escape, exc.object[exc.start : exc.end])), exc.end


codecs.register_error(ERRORS, _handle)
