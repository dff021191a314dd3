"""The values that drain, encoder, cursor and transport share: batches, and the answer to a request."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from rondo_tools.prom.samples import Block

MAX_BYTES = 4 << 20
"""About the size of a request before compression. Receivers take 32 MiB."""

SAMPLE_BYTES = 20
"""About the size of a sample in a request of 1.0."""


class Batch(NamedTuple):
    """Rows [begin, end) of a slice; `blocks` are the samples to send.

    The blocks of one series are in time order. `passed_over` counts wanted samples that are too old. A
    batch may have no blocks: then only its rows count.
    """

    begin: int
    end: int
    blocks: tuple[Block, ...]
    passed_over: int

    @property
    def samples(self) -> int:
        return sum(block.values.size for block in self.blocks)


class Outcome(enum.Enum):
    """The result of an attempt."""

    ACCEPTED = enum.auto()
    RETRY = enum.auto()  # the same request may succeed later
    REFUSED = enum.auto()  # a sample of this body will never be accepted
    TOO_LARGE = enum.auto()
    DENIED = enum.auto()  # no body will be accepted until somebody changes the configuration


@dataclass(frozen=True)
class Answer:
    """The outcome; `text` is one line for people, with the server's text made harmless.

    With RETRY: `unclear` if the request may still have been accepted; `retry_after_s` if the server asked
    for a pause. `written` is the number of written samples that a receiver of 2.0 reports; None if it
    reports none. `status` is HTTP's; 0 without an answer.
    """

    outcome: Outcome
    text: str = ""
    unclear: bool = False
    retry_after_s: float | None = None
    status: int = 0
    written: int | None = None
