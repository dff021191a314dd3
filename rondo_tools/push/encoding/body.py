"""A request body with its protocol, remote-write 1.0 or 2.0; hides the difference from other modules.

Strategy: a body always keeps its protocol, also in the cursor, so that the same bytes are sent again with
the right headers. Reconciling and dry runs see a request of 1.0 in both.
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
    """The bytes of a request, and their protocol."""

    data: bytes
    protocol: str = V1

    def request(self) -> WriteRequest:
        """Its content as a request of 1.0. Raises ValueError."""
        return v2.plain(v2.decode(self.data)) if self.protocol == V2 else v1.decode(self.data)

    def select(self, piece: WriteRequest) -> Body:
        """A body with some of its samples, in the same protocol."""
        if self.protocol == V2:
            return Body(v2.compress(v2.select(v2.decode(self.data), piece)), V2)
        return Body(v1.compress(piece))

    def as_v1(self) -> Body:
        """The same in 1.0; a body of 2.0 loses its metadata and start times."""
        return self if self.protocol == V1 else Body(v1.compress(self.request()))


def encode(protocol: str, blocks: Iterable[Block], metadata: Iterable[Series]) -> Body:
    """Encode a batch; in 2.0 each series has its own metadata."""
    if protocol == V2:
        return Body(v2.encode(blocks), V2)
    return Body(v1.encode(blocks, metadata))


def encode_bounded(protocol: str, blocks: Sequence[Block], metadata: Iterable[Series]) -> list[Body]:
    """Encode a batch as bodies of bounded size, split by series, because 1.0 repeats labels per series."""
    if protocol == V2:
        return [Body(v2.encode(blocks), V2)]
    return [Body(data) for data in v1.bodies(blocks, metadata)]
