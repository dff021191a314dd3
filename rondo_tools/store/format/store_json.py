"""`store.json`: the id of a store, and its tiers. It is written once, and never changed.

{"format": 2, "id": "0123456789abcdef", "tiers": "1s:10m,10s:6h,5m:7d"}
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from rondo_tools.errors import RondoError, StoreError
from rondo_tools.store.format.frames import FORMAT
from rondo_tools.store.format.tiers import Tier, format_tiers, parse_tiers

_ID_SIZE = 8


class StoreJson(NamedTuple):
    """`store_id` is in the header of each file of the store."""

    store_id: bytes
    tiers: tuple[Tier, ...]

    def pack(self) -> bytes:
        document = {"format": FORMAT, "id": self.store_id.hex(), "tiers": format_tiers(self.tiers)}
        return json.dumps(document).encode()


def new_store(tiers: tuple[Tier, ...]) -> StoreJson:
    """The store.json of a new store."""
    return StoreJson(os.urandom(_ID_SIZE), tiers)


def parse_store_json(data: bytes) -> StoreJson:
    """Raises StoreError, without the file's name, if it is not a store of this format."""
    try:
        document: dict[str, Any] = json.loads(data)
        if "rondo_store" in document:
            raise StoreError(
                f"made by an earlier rondo (store format {document['rondo_store']!s:.9}); "
                "move it away, or use another folder"
            )
        if (version := document["format"]) != FORMAT:
            newer = "; a newer rondo made it: update this one, or use another folder"
            is_newer = isinstance(version, int) and version > FORMAT
            raise StoreError(
                f"store format {version!s:.9}; this rondo reads format {FORMAT}{newer if is_newer else ''}"
            )
        found = StoreJson(bytes.fromhex(document["id"]), parse_tiers(document["tiers"]))
        if len(found.store_id) != _ID_SIZE:
            raise ValueError(f"an id of {len(found.store_id)} bytes")
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RondoError) as exc:
        raise StoreError(
            f"not the description of a store ({exc!s:.200}); put it back from a backup, or use another folder"
        ) from exc
    return found
