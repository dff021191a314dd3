"""What ``--output`` and ``--serial`` name, as an output: ``-``, a file, ``unix:PATH``, ``tcp:HOST:PORT``."""

from __future__ import annotations

import os
import stat

from rondo_tools.errors import UsageError
from rondo_tools.vmm.output import FileOutput, Output

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
_MAX_UNIX_PATH = 107  # bytes, unix(7)


def open_output(spec: str, interval_ms: int = 1000) -> Output:
    """The destination that ``--output`` names, for a tick in each interval. Raises UsageError for one
    that cannot be.
    """
    kind, colon, address = spec.partition(":")
    if spec == "-":
        return FileOutput(_standard(1, "output"), "standard output")
    if colon and kind == "unix":
        if not 0 < len(os.fsencode(address)) <= _MAX_UNIX_PATH:
            raise UsageError(f"--output {spec}: a socket's path has 1 to {_MAX_UNIX_PATH} bytes")
        return _socket(address, spec, interval_ms)
    if colon and kind == "tcp":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"--output {spec}: write tcp:HOST:PORT, such as tcp:127.0.0.1:9400")
        return _socket((host.strip("[]"), int(port)), spec, interval_ms)
    return _open_file("--output", spec)


def _socket(address: str | tuple[str, int], name: str, interval_ms: int) -> Output:
    from rondo_tools.vmm.link import SocketOutput  # 8 ms, which a VM with a pipe need not wait for

    return SocketOutput(address, name, interval_ms=interval_ms)


def open_console(spec: str) -> Output | None:
    """Where ``--serial`` says that the guest's console goes; None is nowhere."""
    if spec == "none":
        return None
    if spec == "-":
        return FileOutput(_standard(2, "error"), "the guest's console", items="lines")
    return _open_file("--serial", spec, items="lines")


def _standard(fd: int, name: str) -> int:
    try:
        os.fstat(fd)
    except OSError as exc:
        raise UsageError(f"standard {name} is closed, and something is to be written to it") from exc
    return fd


def _open_file(flag: str, path: str, *, items: str = "ticks") -> Output:
    try:
        mode = os.stat(path).st_mode if os.path.exists(path) else 0
        if stat.S_ISFIFO(mode):
            return FileOutput(-1, path, fifo=path, items=items)
        if stat.S_ISSOCK(mode):
            raise UsageError(
                f"{flag} {path}: this is a socket; a stream goes to it with --output unix:{path}"
            )
        fd = os.open(path, _NEW_FILE, 0o666)
        os.set_blocking(fd, True)  # only to open it was not to be waited for: a serial line without a carrier
        return FileOutput(fd, path, items=items)
    except OSError as exc:
        raise UsageError(f"{flag} {path}: {exc.strerror}") from exc
