"""A receiver of remote-write 2.0 that refuses everything the specification forbids a sender.

Strategy: check the headers first, then the message for unknown fields, then symbols, then each series. A
valid request goes through Prometheus' rules for 1.0 (`Receiver`), and the answer has the number of samples
written.
"""

from __future__ import annotations

import http.server
import itertools
import re
import threading
from collections.abc import Callable, Mapping

import snappy
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from devtools.http_server import Reply
from devtools.receivers.receiver import Key, Receiver
from rondo_tools.prom.proto.remote_write_v2_pb2 import Request, TimeSeries
from rondo_tools.push.encoding.v2 import plain

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
PROTO = "io.prometheus.write.v2.Request"


def forbidden_headers(headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Status and text for headers that 2.0 does not allow."""
    if headers.get("Content-Encoding") != "snappy":
        return 415, "Content-Encoding is not snappy"
    kind, _, parameter = headers.get("Content-Type", "").partition(";")
    if kind.strip() != "application/x-protobuf" or parameter.strip() != f"proto={PROTO}":
        return 415, "Content-Type is not that of 2.0"
    if headers.get("X-Prometheus-Remote-Write-Version") != "2.0.0":
        return 400, "X-Prometheus-Remote-Write-Version is not 2.0.0"
    if not headers.get("User-Agent"):
        return 400, "no User-Agent"
    return None


def forbidden(body: bytes) -> str | None:
    """The rule of the specification that a body breaks; None if it is valid."""
    try:
        request = Request.FromString(snappy.decompress(body))
    except Exception as exc:
        return f"not a request in snappy's block format: {exc}"
    if _unknown(request):
        return "fields that are not 2.0's"
    symbols = list(request.symbols)
    if not symbols or symbols[0]:
        return "symbols do not begin with the empty one"
    if len(set(symbols)) != len(symbols):
        return "a symbol twice"
    if not request.timeseries:
        return "nothing in it"
    used = {0}
    seen: set[Key] = set()
    for series in request.timeseries:
        refs = [*series.labels_refs, series.metadata.help_ref, series.metadata.unit_ref]
        if len(series.labels_refs) % 2 or any(ref >= len(symbols) for ref in refs):
            return "references that are no pairs, or to no symbol"
        used.update(refs)
        texts = [symbols[ref] for ref in series.labels_refs]
        labels = tuple(zip(texts[::2], texts[1::2], strict=True))
        words = _labels(labels) or _samples(series)
        if words is not None:
            return words
        if labels in seen:
            return "a series twice"
        seen.add(labels)
    if len(used) != len(symbols):
        return "a symbol that nothing refers to"
    return None


def _unknown(request: Request) -> bool:
    messages: list[Message] = [request]
    for series in request.timeseries:
        messages += [series, series.metadata, *series.samples]
    return any(len(UnknownFieldSet(message)) for message in messages)


def _labels(labels: Key) -> str | None:
    names = [name for name, _ in labels]
    if names != sorted(set(names)):
        return "labels that are not sorted or not unique"
    if not dict(labels).get("__name__"):
        return "no name"
    for name, value in labels:
        if not value or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
            return f"a label that is none: {name!r}"
    return None


def _samples(series: TimeSeries) -> str | None:
    if not series.samples:
        return "a series without samples"
    if not series.HasField("metadata") or series.metadata.type not in (1, 2):
        return "no metadata, or of an unknown type"
    times = [sample.timestamp for sample in series.samples]
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        return "samples that do not ascend"
    starts = {sample.start_timestamp for sample in series.samples}
    if any(sample.start_timestamp > sample.timestamp for sample in series.samples):
        return "a sample from before its start"
    if series.metadata.type == 2 and starts != {0}:
        return "a gauge that began"
    return None


class StrictReceiver:
    """A handler for `http_server`. `bodies` are the valid ones."""

    def __init__(self, refuses: Callable[[Key, int], str | None] = lambda labels, t_ms: None) -> None:
        self.store = Receiver(refuses)
        self.bodies: list[Request] = []
        self.forbidden: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        with self._lock:
            wrong = forbidden_headers(dict(handler.headers))
            words = forbidden(body) if wrong is None else None
            if wrong is not None or words is not None:
                status, words = wrong or (400, str(words))
                self.forbidden.append(words)
                return status, {WRITTEN: "0"}, words.encode()
            request = Request.FromString(snappy.decompress(body))
            self.bodies.append(request)
            refusal = self.store.take_request(plain(request))
            if refusal is not None:
                return 400, {WRITTEN: "0"}, refusal.encode()
            count = sum(len(series.samples) for series in request.timeseries)
            return 204, {WRITTEN: str(count)}, b""
