"""The store that is read if none is named: $RONDO_STORE, the one in this folder, or the host's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store.format.layout import is_store

VARIABLE = "RONDO_STORE"
PLACES = ("./vmm_metrics", "/var/lib/rondo/vmm_metrics")


def default_store(environment: Mapping[str, str] = os.environ, places: tuple[str, ...] = PLACES) -> str:
    """The path of the store. Raises StoreError, which names the places that were tried."""
    if named := environment.get(VARIABLE):
        if not is_store(named):
            from rondo_tools.store.format.opened import no_store  # loads numpy, which --help saves

            raise StoreError(f"{no_store(Path(named))}; {VARIABLE} names it", exit_code=EX_UNAVAILABLE)
        return named
    for place in places:
        if is_store(place):
            return place
    raise StoreError(
        f"no store at {' or '.join(places)}: name one, or set {VARIABLE}", exit_code=EX_UNAVAILABLE
    )
