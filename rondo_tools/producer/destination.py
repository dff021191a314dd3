"""Opens the destination of ``--output``: ``-``, a file, ``unix:PATH``, ``tcp:HOST:PORT``."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rondo_tools import files
from rondo_tools.errors import UsageError
from rondo_tools.producer.output import NOTICES, Notices, Output
from rondo_tools.producer.pipe import Pipe

if TYPE_CHECKING:
    from rondo_tools.producer.address import TcpAddress, UnixAddress

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
_MAX_UNIX_PATH = 107  # bytes, unix(7)


def open_output(spec: str, interval_ms: int = 1000, notices: Notices = NOTICES) -> Output:
    """The destination of ``--output``, for a tick in each interval. Raises UsageError for an invalid one."""
    if spec == "-":
        return Pipe(standard(1, "output"), "standard output", notices=notices)
    if (where := address(spec)) is not None:
        from rondo_tools.producer.link import Link  # loading it takes 8 ms, which a VM with a pipe saves

        return Link(where, spec, interval_ms=interval_ms, notices=notices)
    return open_file("--output", spec, notices=notices)


def open_stream(
    spec: str, interval_ms: int, *, text: bool, example: str, notices: Notices = NOTICES
) -> Output:
    """The destination of a tool that writes the stream or, with --text, lines for people. Raises UsageError.

    A terminal cannot show the stream: the message has `example`, a pipeline.
    """
    if spec == "-" and not text and os.isatty(1):
        raise UsageError(
            f"standard output is a terminal, and the stream is binary: pipe it, as in `{example}`, or say "
            "--output FILE, or --text to read it"
        )
    if text and address(spec) is not None:
        raise UsageError(f"--text is for people; --output {spec} wants the stream")
    return open_output(spec, interval_ms, notices)


def address(spec: str) -> UnixAddress | TcpAddress | None:
    """The socket address in ``--output``; None if it is not one. Raises UsageError for an invalid one."""
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in ("unix", "tcp"):
        return None
    from rondo_tools.producer.address import TcpAddress, UnixAddress

    if kind == "unix":
        if not 0 < len(os.fsencode(rest)) <= _MAX_UNIX_PATH:
            raise UsageError(f"--output {spec}: a socket's path has 1 to {_MAX_UNIX_PATH} bytes")
        if os.path.isfile(rest) or os.path.isdir(rest):
            raise UsageError(
                f"--output {spec}: there is a {'file' if os.path.isfile(rest) else 'folder'}, "
                "not a socket; name the one of rondo-store --listen"
            )
        return UnixAddress(rest)
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--output {spec}: write tcp:HOST:PORT, such as tcp:127.0.0.1:9400")
    return TcpAddress(host.strip("[]"), int(port))


def standard(fd: int, name: str) -> int:
    """A standard descriptor. Raises UsageError if it is closed."""
    try:
        os.fstat(fd)
    except OSError as exc:
        what = "read" if fd == 0 else "written"
        raise UsageError(f"standard {name} is closed, but it has to be {what}") from exc
    return fd


def open_file(flag: str, path: str, *, items: str = "ticks", notices: Notices = NOTICES) -> Output:
    """A file, overwritten, or a named pipe. Raises UsageError if it cannot be opened."""
    try:
        mode = os.stat(path).st_mode if os.path.exists(path) else 0
        if stat.S_ISFIFO(mode):
            return Pipe(-1, path, fifo=path, items=items, notices=notices)
        if stat.S_ISSOCK(mode):
            raise UsageError(
                f"{flag} {path}: this is a socket; a stream goes to it with --output unix:{path}"
            )
        fd = os.open(path, _NEW_FILE, 0o666)
        os.set_blocking(fd, True)  # O_NONBLOCK is for the open alone: a serial line may have no carrier
        return Pipe(fd, path, items=items, notices=notices)
    except OSError as exc:
        raise UsageError(f"{flag} {path}: {_why(exc, path)}") from exc


def _why(exc: OSError, path: str) -> str:
    folder = Path(path).parent
    if "://" in path:
        return f"{exc.strerror}; a URL is for rondo-push --remote-write"
    if isinstance(exc, FileNotFoundError) and not folder.is_dir():
        return f"{exc.strerror}; make the folder {folder}"
    if isinstance(exc, IsADirectoryError):
        return f"{exc.strerror}; name a file in it"
    return files.why(exc, Path(path))
