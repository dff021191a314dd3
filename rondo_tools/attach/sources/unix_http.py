"""One HTTP request to a VMM's API socket, which must be that of the watched process."""

from __future__ import annotations

import asyncio
import re

from rondo_tools.attach.sources.adapters import RefusedError
from rondo_tools.attach.sources.peer import connect

MAX_ANSWER_BYTES = 1 << 20
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)


async def ask(path: str, pid: int, method: str, resource: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status and body of the answer. Raises OSError, EOFError or RefusedError; has no deadline."""
    head = f"{method} {resource} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_unix_connection(sock=connect(path, pid), limit=MAX_ANSWER_BYTES)
    try:
        writer.write(head.encode() + b"\r\n" + body)
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            status, length = _STATUS.match(answer), _LENGTH.search(answer)
            if status is None:
                raise RefusedError(f"{path} does not speak HTTP")
            size = int(length[1]) if length else 0
            if size > MAX_ANSWER_BYTES:
                raise RefusedError(f"{path} answers with more than {MAX_ANSWER_BYTES >> 20} MiB")
            return int(status[1]), await reader.readexactly(size)
        except asyncio.LimitOverrunError:
            raise RefusedError(f"{path} does not speak HTTP") from None
    finally:
        writer.transport.abort()
