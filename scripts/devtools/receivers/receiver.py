"""A remote-write receiver in memory: what the demo uses where no Prometheus can be had.

It takes what Prometheus takes (a series' samples in time order, an exact duplicate only of the
newest, a request whole or not at all) and shows what it holds in the same shape.
"""

from __future__ import annotations

import re
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from rondo_tools.push.encoding.v1 import decode

Labels = tuple[tuple[str, str], ...]

STALE = 0x7FF0000000000002


class Receiver:
    """Listens on a free loopback port while entered; `write_url` is where to write to."""

    def __init__(self) -> None:
        self._held: dict[Labels, list[tuple[int, int]]] = {}  # (t_ms, the value's bits), in time order
        self._lock = threading.Lock()

    def write(self, body: bytes) -> str | None:
        """Take a request whole, or say why not."""
        taken: dict[Labels, list[tuple[int, int]]] = {}
        with self._lock:
            for series in decode(body).timeseries:
                labels = tuple((label.name, label.value) for label in series.labels)
                held = taken.setdefault(labels, list(self._held.get(labels, [])))
                for sample in series.samples:
                    pair = (sample.timestamp, struct.unpack("<Q", struct.pack("<d", sample.value))[0])
                    if held and pair == held[-1]:
                        continue
                    if held and pair[0] <= held[-1][0]:
                        return f"out of order sample of {labels} at {sample.timestamp}"
                    held.append(pair)
            self._held.update(taken)
        return None

    def samples(self, selector: str) -> dict[Labels, list[tuple[int, str]]]:
        """One instance's samples, as Prometheus shows them: ``{instance="NAME"}``, no stale markers."""
        match = re.fullmatch(r'\{instance="([^"]*)"\}', selector)
        if match is None:
            raise ValueError(f"this receiver knows no selector like {selector}")
        with self._lock:
            return {
                labels: [
                    (t_ms, repr(struct.unpack("<d", struct.pack("<Q", bits))[0]))
                    for t_ms, bits in pairs
                    if bits != STALE
                ]
                for labels, pairs in self._held.items()
                if ("instance", match[1]) in labels
            }

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                try:
                    refusal = receiver.write(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                except ValueError as exc:
                    refusal = str(exc)
                self.send_response(400 if refusal else 204)
                text = (refusal or "").encode()
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.write_url = f"http://127.0.0.1:{self._server.server_port}/api/v1/write"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
