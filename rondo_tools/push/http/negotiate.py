"""Sends bodies in the protocol that the endpoint speaks: 2.0 until it shows that it does not.

Strategy: an endpoint that answers 415 to 2.0, or 2xx without saying how many samples it wrote, does
not speak it; an old Prometheus takes a request of 2.0 for an empty one, and answers 204. From then
on everything goes out as 1.0, for the life of the process: the next one asks again, at the price of
one request, so that an endpoint that was upgraded is found out. The body that was not understood is
left to be tried again, as after any failure that may pass; then it is a body of 1.0.
"""

from __future__ import annotations

import logging
from typing import Protocol

from rondo_tools.push.encoding import V1, V2
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.model import Answer, Outcome

log = logging.getLogger(__name__)


class Line(Protocol):
    """What is needed of a transport: one attempt."""

    def send(self, data: bytes, protocol: str) -> Answer: ...


class Negotiator:
    """One endpoint. `protocol` is what bodies for it are best made in."""

    def __init__(self, line: Line, protocol: str = V1) -> None:
        self._line = line
        self.protocol = protocol

    def send(self, body: Body) -> Answer:
        """One attempt; a body of 2.0 goes as 1.0 if the endpoint is known not to speak it."""
        if self.protocol == V1:
            body = body.as_v1()
        answer = self._line.send(*body)
        if body.protocol == V1:
            return answer
        accepted = answer.outcome is Outcome.ACCEPTED
        if answer.status != 415 and not (accepted and answer.written is None):
            return answer
        log.warning(
            "the endpoint does not speak remote-write %s (it answered %d): going on with %s",
            V2,
            answer.status,
            V1,
        )
        self.protocol = V1
        # It said 2xx: so it may have understood, and have said nothing of it.
        return Answer(Outcome.RETRY, answer.text, unclear=accepted, status=answer.status)
