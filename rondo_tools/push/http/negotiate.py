"""Sends bodies in the protocol of the endpoint: 2.0 until the endpoint shows that it does not support it.

Strategy: an endpoint that answers 415 to 2.0, or 2xx without a count of written samples, does not support
it; an old Prometheus takes a request of 2.0 for an empty one, and answers 204. From then on the process
sends only 1.0. The next process tries 2.0 again, which costs one request, so an upgraded endpoint is
noticed. The refused body is repeated like after any temporary failure, as a body of 1.0.
"""

from __future__ import annotations

import logging
from typing import Protocol

from rondo_tools.push.encoding import V1, V2
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.model import Answer, Outcome

log = logging.getLogger(__name__)


class TransportLike(Protocol):
    """The part of a transport that is needed here: one attempt."""

    def send(self, data: bytes, protocol: str) -> Answer: ...


class Negotiator:
    """One endpoint. New bodies should be encoded in `protocol`."""

    def __init__(self, transport: TransportLike, protocol: str = V1) -> None:
        self._transport = transport
        self.protocol = protocol

    def send(self, body: Body) -> Answer:
        """One attempt; a body of 2.0 is sent as 1.0 if the endpoint does not support 2.0."""
        if self.protocol == V1:
            body = body.as_v1()
        answer = self._transport.send(*body)
        if body.protocol == V1:
            return answer
        accepted = answer.outcome is Outcome.ACCEPTED
        if answer.status != 415 and not (accepted and answer.written is None):
            return answer
        log.warning(
            "the endpoint does not support remote-write %s (it answered %d): continuing with %s",
            V2,
            answer.status,
            V1,
        )
        self.protocol = V1
        # After 2xx it may have written the samples without reporting their number.
        return Answer(Outcome.RETRY, answer.text, unclear=accepted, status=answer.status)
