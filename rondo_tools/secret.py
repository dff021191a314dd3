"""Secrets in files.

Strategy: a secret is never on a command line, which every user of the machine can read, and never in a
message. A file is read at the start, so that an error is reported at once, and again when it changes, so that
a token may be renewed while a process runs.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from rondo_tools.errors import EX_TEMPFAIL, RondoError, UsageError

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 1024  # no token is longer


class SecretError(RondoError):
    """The file cannot be read now, or has invalid content."""

    exit_code = EX_TEMPFAIL


class Secret:
    """The text of a file, read again when the file has changed or was replaced."""

    def __init__(self, path: Path, flag: str) -> None:
        self._path = path
        self._flag = flag
        self._version: tuple[int, int, int] | None = None
        self._text = ""
        try:
            self.text()
            status = path.stat()
            # A mounted Secret belongs to root, and is readable by all so that we can read it.
            if status.st_uid == os.geteuid() and status.st_mode & stat.S_IROTH:
                log.warning("%s %s: every user of this host can read it: chmod 600 %s", flag, path, path)
        except SecretError as exc:
            raise UsageError(str(exc)) from None

    def text(self) -> str:
        """Its one line. Raises SecretError if the file cannot be read, or has invalid content."""
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version != self._version:
                with self._path.open("rb") as file:
                    data = file.read(_MAX_BYTES + 1)
                text = data.decode("ascii").strip()
                if not text:
                    raise SecretError(f"{self._flag} {self._path}: it is empty")
                if len(data) > _MAX_BYTES or not text.isprintable():
                    raise ValueError
                self._version, self._text = version, text
        except OSError as exc:
            raise SecretError(f"{self._flag} {self._path}: {exc.strerror}") from None
        except ValueError:  # without the decoder's error, which would show a part of the secret
            raise SecretError(f"{self._flag} {self._path}: not one line of printable ASCII") from None
        return self._text


def user_and_password(path: Path, flag: str) -> Secret:
    """A file with USER:PASSWORD. Raises UsageError."""
    secret = Secret(path, flag)
    if ":" not in secret.text():
        raise UsageError(f"{flag} {path}: write USER:PASSWORD in it")
    return secret
