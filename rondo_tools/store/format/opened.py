"""A store's folder for readers: the names of its files, its tiers, its id."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rondo_tools import files, foreign
from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.state import State, parse_state
from rondo_tools.store.format.store_json import StoreJson, parse_store_json
from rondo_tools.store.format.tiers import Tier

_NEAR = 1000  # folders to search for a store


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
    found = read_store_json(path)
    return OpenedStore(Layout(path), found.tiers, found.store_id.hex())


def read_store_json(path: Path) -> StoreJson:
    """The store.json of the store at `path`. Raises StoreError."""
    file = Layout(path).store_json
    try:
        return parse_store_json(file.read_bytes())
    except FileNotFoundError:
        raise no_store(path) from None
    except NotADirectoryError:
        raise StoreError(f"{path}: no store there: this is {_file(path)}", exit_code=EX_UNAVAILABLE) from None
    except OSError as exc:
        raise StoreError(f"{file}: {files.why(exc, path)}", exit_code=EX_UNAVAILABLE) from exc
    except StoreError as exc:
        raise StoreError(f"{file}: {exc}", exit_code=exc.exit_code) from exc


def no_store(path: Path) -> StoreError:
    """The error for a path that is no folder, or no store; it names a store nearby."""
    try:
        near = [path.parent, *sorted(path.iterdir())]
    except OSError:
        near = [path.parent]
    hint = next((f"; did you mean {one}?" for one in near[:_NEAR] if Layout(one).store_json.is_file()), "")
    return StoreError(f"{path}: no store there (no store.json){hint}", exit_code=EX_UNAVAILABLE)


def _file(path: Path) -> str:
    kind = ""
    if path.is_file():  # opening a FIFO would wait for its writer
        with suppress(OSError), path.open("rb") as file:
            kind = foreign.kind_of(file.read(64))
    hints = {
        foreign.STREAM: f"{foreign.STREAM}; rondo-store DIR < {path} makes a store of it",
        foreign.DUMP: f"{foreign.DUMP}; rondo-store DIR --restore < {path} makes a store of it",
    }
    return hints.get(kind, "a file; a store is a folder")


def read_state(layout: Layout) -> State:
    """The last commit of a roll-up. Raises StoreError if it cannot be read, or was lost."""
    return state_of(layout, state_bytes(layout))


def state_bytes(layout: Layout) -> bytes | None:
    """The content of state.json; None before the first roll-up. Raises as `read_state` does."""
    try:
        return layout.state_json.read_bytes()
    except FileNotFoundError:
        if layout.has_lost_state():
            raise StoreError(f"{layout.state_json}: gone; it defines which bytes are data") from None
        return None
    except OSError as exc:
        raise StoreError(f"{layout.state_json}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc


def state_of(layout: Layout, data: bytes | None) -> State:
    """The state in the content of state.json. Raises StoreError if it is invalid."""
    try:
        return State() if data is None else parse_state(data)
    except StoreError as exc:
        raise StoreError(f"{layout.state_json}: {exc}") from exc
