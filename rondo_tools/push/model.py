"""What drain, encoder, cursor and transport hand to one another: batches, and what came of a request."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from rondo_tools.prom.samples import Block

MAX_BYTES = 4 << 20
"""Of a request, before compression, about. Receivers take 32 MiB."""

SAMPLE_BYTES = 20
"""What a sample takes in a request of 1.0, about."""


class Batch(NamedTuple):
    """Rows [begin, end) of a slice; `blocks` are what is sent of them.

    Of one series, each block is later than the one before it. `passed_over` counts samples that are
    wanted and too old. A batch may have no blocks: then only its rows count.
    """

    begin: int
    end: int
    blocks: tuple[Block, ...]
    passed_over: int

    @property
    def samples(self) -> int:
        return sum(block.values.size for block in self.blocks)


class Outcome(enum.Enum):
    """What came of an attempt."""

    ACCEPTED = enum.auto()
    RETRY = enum.auto()  # the same again may succeed
    REFUSED = enum.auto()  # something in this body will never be accepted
    TOO_LARGE = enum.auto()
    DENIED = enum.auto()  # no body will be accepted before somebody changes something


@dataclass(frozen=True)
class Answer:
    """The outcome; `text` is one line for people, the server's words in it made harmless.

    With RETRY: `unclear` if the request may have been accepted all the same; `retry_after_s` if
    the server asked for a pause. `written` is how many samples a receiver of 2.0 says that it wrote;
    None if it does not say. `status` is HTTP's; 0 where there was no answer.
    """

    outcome: Outcome
    text: str = ""
    unclear: bool = False
    retry_after_s: float | None = None
    status: int = 0
    written: int | None = None
