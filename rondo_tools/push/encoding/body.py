"""Which remote-write a body is: 1.0 or 2.0, and what all others need to know of the difference.

Strategy: a body never travels without its protocol, not in the cursor either: the very same bytes
go out again with the headers that belong to them. Settling and looking see 1.0 in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rondo_tools.catalog import Series
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.samples import Block
from rondo_tools.push.encoding import V1, V2, v1, v2

HEADERS = {V1: v1.HEADERS, V2: v2.HEADERS}


class Body(NamedTuple):
    """The bytes of a request, and the protocol that they are of."""

    data: bytes
    protocol: str = V1

    def request(self) -> WriteRequest:
        """What it carries, as 1.0 has it. Raises ValueError."""
        return v2.plain(v2.decode(self.data)) if self.protocol == V2 else v1.decode(self.data)

    def select(self, piece: WriteRequest) -> Body:
        """A body for some of this one's samples, of the same protocol."""
        if self.protocol == V2:
            return Body(v2.compress(v2.select(v2.decode(self.data), piece)), V2)
        return Body(v1.compress(piece))

    def as_v1(self) -> Body:
        """The same in 1.0: without metadata and starts, if it was 2.0."""
        return self if self.protocol == V1 else Body(v1.compress(self.request()))


def encode(protocol: str, blocks: Iterable[Block], metadata: Iterable[Series]) -> Body:
    """A batch in a protocol; in 2.0 each series carries its metadata itself."""
    if protocol == V2:
        return Body(v2.encode(blocks), V2)
    return Body(v1.encode(blocks, metadata))


def encode_bounded(protocol: str, blocks: Sequence[Block], metadata: Iterable[Series]) -> list[Body]:
    """A batch as bodies of bounded size, each of other series: in 1.0 each series repeats its labels."""
    if protocol == V2:
        return [Body(v2.encode(blocks), V2)]
    return [Body(data) for data in v1.bodies(blocks, metadata)]
