"""2.0 while the endpoint supports it, then 1.0; and the count of written samples from a receiver of 2.0."""

from __future__ import annotations

import http.server
from contextlib import closing

import numpy as np
import pytest

from devtools.http_server import Reply, http_server
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.samples import Block, SeriesSet
from rondo_tools.push.encoding import V1, V2
from rondo_tools.push.encoding.body import HEADERS, Body, encode
from rondo_tools.push.http.negotiate import Negotiator
from rondo_tools.push.http.transport import Transport
from rondo_tools.push.model import Answer, Outcome
from tests.support.push.receivers import T0, TWO_SERIES, header
from tests.support.push.strict_v2 import WRITTEN, StrictReceiver

LABELS = sent_labels(header(), "rondo-vmm", {})
BLOCKS = [
    Block(
        SeriesSet(TWO_SERIES, LABELS), np.array([T0, T0 + 1000]), np.array([[1.0, 2.0], [3.0, 4.0]]), T0 - 500
    )
]
BODY = encode(V2, BLOCKS, ())


class FakeTransport:
    """Answers from a list; records what was sent."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.sent: list[Body] = []

    def send(self, data: bytes, protocol: str) -> Answer:
        self.sent.append(Body(data, protocol))
        return self.answers.pop(0)


def test_a_strict_receiver_accepts_2_0() -> None:
    receiver = StrictReceiver()
    with http_server(receiver) as url, closing(Transport(url, timeout_s=300)) as transport:
        negotiator = Negotiator(transport, V2)
        answer = negotiator.send(BODY)
        assert (answer.outcome, answer.written) == (Outcome.ACCEPTED, 4)
        assert receiver.forbidden == []
        # The next request on the connection has the headers of 1.0, and is refused.
        assert transport.send(BODY.data, V1).status == 415
    assert (negotiator.protocol, len(receiver.bodies)) == (V2, 1)


@pytest.mark.parametrize(
    ("first", "unclear"),
    [
        (Answer(Outcome.DENIED, "answered 415", status=415), False),
        (Answer(Outcome.ACCEPTED, "answered 204", status=204), True),
    ],
)
def test_an_endpoint_without_2_0_gets_1_0_from_then_on(first: Answer, unclear: bool) -> None:
    transport = FakeTransport(first, *[Answer(Outcome.ACCEPTED, status=204)] * 2)
    negotiator = Negotiator(transport, V2)
    answer = negotiator.send(BODY)
    assert (answer.outcome, answer.unclear, answer.status) == (Outcome.RETRY, unclear, first.status)
    assert negotiator.protocol == V1
    for _ in range(2):
        assert negotiator.send(BODY).outcome is Outcome.ACCEPTED
    assert [body.protocol for body in transport.sent] == [V2, V1, V1]
    assert transport.sent[0] == BODY
    assert transport.sent[1] == transport.sent[2] == BODY.as_v1() == encode(V1, BLOCKS, ())


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Outcome.ACCEPTED, status=200, written=4),
        Answer(Outcome.REFUSED, status=400),
        Answer(Outcome.REFUSED, status=400, written=0),
        Answer(Outcome.RETRY, status=503, unclear=True),
        Answer(Outcome.DENIED, status=401),
        Answer(Outcome.TOO_LARGE, status=413),
    ],
)
def test_other_answers_do_not_change_the_protocol(answer: Answer) -> None:
    negotiator = Negotiator(FakeTransport(answer), V2)
    assert negotiator.send(BODY) == answer
    assert negotiator.protocol == V2


def test_1_0_stays_1_0_after_any_answer() -> None:
    transport = FakeTransport(Answer(Outcome.ACCEPTED, status=204), Answer(Outcome.DENIED, status=415))
    negotiator = Negotiator(transport)
    assert negotiator.send(BODY.as_v1()).outcome is Outcome.ACCEPTED
    assert negotiator.send(BODY.as_v1()).outcome is Outcome.DENIED


@pytest.mark.parametrize(
    ("value", "written"), [("0", 0), ("12", 12), ("-1", None), ("x", None), ("9" * 99, None)]
)
def test_the_written_count_is_a_number_or_none(value: str, written: int | None) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        assert {name: handler.headers[name] for name in HEADERS[V2]} == HEADERS[V2]
        return 200, {WRITTEN: value}, b""

    with http_server(answer) as url, closing(Transport(url, timeout_s=300)) as transport:
        assert transport.send(*BODY).written == written
