"""A store's folder, as far as those who only read have to know it: its files' names, its tiers, its id."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.state import State, parse_state
from rondo_tools.store.format.store_json import parse_store_json
from rondo_tools.store.format.tiers import Tier


class OpenedStore(NamedTuple):
    layout: Layout
    tiers: tuple[Tier, ...]
    store_id: str

    @property
    def path(self) -> Path:
        return self.layout.path

    def state(self) -> State:
        return read_state(self.layout)


def open_store(path: Path) -> OpenedStore:
    """Raises StoreError if there is no store, or one of another format."""
    layout = Layout(path)
    try:
        found = parse_store_json(layout.store_json.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path}: no store there (no store.json)", exit_code=EX_UNAVAILABLE) from None
    except OSError as exc:
        raise StoreError(f"{layout.store_json}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    except StoreError as exc:
        raise StoreError(f"{layout.store_json}: {exc}", exit_code=exc.exit_code) from exc
    return OpenedStore(layout, found.tiers, found.store_id.hex())


def read_state(layout: Layout) -> State:
    """What roll-ups have committed. Raises StoreError if that cannot be read."""
    try:
        return parse_state(layout.state_json.read_bytes())
    except FileNotFoundError:
        return State()
    except OSError as exc:
        raise StoreError(f"{layout.state_json}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    except StoreError as exc:
        raise StoreError(f"{layout.state_json}: {exc}") from exc
