"""The index of ended sessions: finds the description of each.

Strategy: 24 bytes for each session in arrays sorted by `key_of`: a hash of the instance in the upper 32 bits,
one of the start in the lower, so that one array serves look-ups of a session and of an instance. New sessions
come as small parts, which are merged when they have grown as large as their neighbour; so no roll-up moves
all of them. Keys have an array of their own, so a look-up copies nothing. An equal key is verified by reading
the description. Parts are replaced, never changed: a thread may look up while another adds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt

from rondo_tools.errors import StoreError
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import DESCRIPTIONS, FILE_SIZE, HEAD_SIZE, MAX_PAYLOAD
from rondo_tools.store.format.layout import ENDED, Layout
from rondo_tools.store.format.records import (
    TABLE,
    Description,
    description_table,
    instance_hash,
    key_of,
    unpack_description,
)
from rondo_tools.store.format.state import State

log = logging.getLogger(__name__)

DescriptionFrames = tuple[int, int, int]
"""(file, from, to): the frames of file `file` in `ended` that begin in [from, to)."""

_SMALL = 4096  # sessions: parts up to this size are merged whenever there is another
_GUESS = 1024  # bytes of a description, at first


class _Part(NamedTuple):
    """Sessions by key; of equal keys the newer description comes later."""

    key: npt.NDArray[np.uint64]
    last_ms: npt.NDArray[np.int64]
    file: npt.NDArray[np.uint32]
    at: npt.NDArray[np.uint32]  # the offset of the description in the file

    def only(self, wanted: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> _Part:
        return _Part(self.key[wanted], self.last_ms[wanted], self.file[wanted], self.at[wanted])


class Remembered:
    """Empty until `add`, or `load` at start-up."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._parts: tuple[_Part, ...] = ()

    def __len__(self) -> int:
        return sum(part.key.size for part in self._parts)

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes."""
        return sum(column.nbytes for part in self._parts for column in part)

    def load(self, state: State) -> None:
        """Add all descriptions that state.json names. Unreadable files are skipped with a warning."""
        self.add(
            (number, FILE_SIZE, file.length) for number, file in sorted(state.files.get(ENDED, {}).items())
        )

    def add(self, new: Iterable[DescriptionFrames]) -> None:
        """Add descriptions that a roll-up wrote, in the order of writing."""
        tables: list[_Part] = []
        for number, begin, end in new:
            try:
                with FrameFile(self._layout.file(ENDED, number)) as file:
                    tables += _tables(file, number, begin, end)
                    if file.damage.bytes:
                        log.warning(
                            "%s: %d bytes are damaged, the first at byte %d",
                            file.path, file.damage.bytes, file.damage.first_at,
                        )  # fmt: skip
            except FileNotFoundError:
                log.warning("%s: gone", self._layout.file(ENDED, number))
            except StoreError as exc:
                log.warning("%s; the sessions in it are not known", exc)
        if not tables:
            return
        parts = [*self._parts, _merged(tables)]
        while len(parts) > 1 and parts[-2].key.size <= max(parts[-1].key.size, _SMALL):
            parts[-2:] = [_merged(parts[-2:])]
        self._parts = tuple(parts)

    def replace(self, other: Remembered) -> None:
        """Take over the content of another index."""
        self._parts = other._parts

    def forget(self, number: int) -> None:
        """File `number` was removed."""
        kept = []
        for part in self._parts:
            others = part.file != number
            if others.any():
                kept.append(part if others.all() else part.only(others))
        self._parts = tuple(kept)

    def find(self, instance: str, start_ms: int) -> Description | None:
        """The newest description of a session; None if there is none."""
        key = np.uint64(key_of(instance, start_ms))
        for part in reversed(self._parts):
            end = int(part.key.searchsorted(key, "right"))
            while end and part.key[end - 1] == key:
                end -= 1
                found = self._read(part, end)
                if found is not None and found.key == (instance, start_ms):
                    return found
        return None

    def newest_ms(self, instance: str) -> int:
        """The newest tick of all sessions of an instance; 0 for none."""
        least = instance_hash(instance) << 32
        bounds = np.array((least, least | 0xFFFFFFFF), np.uint64)
        newest = 0
        for part in self._parts:
            begin, end = int(part.key.searchsorted(bounds[0])), int(part.key.searchsorted(bounds[1], "right"))
            if begin == end:
                continue
            last_ms = part.last_ms[begin:end].copy()
            while int(last_ms.max()) > newest:
                at = int(last_ms.argmax())
                found = self._read(part, begin + at)
                if found is not None and found.instance == instance:
                    newest = found.last_ms
                last_ms[at] = 0  # done, or of another instance with this hash
        return newest

    def _read(self, part: _Part, place: int) -> Description | None:
        """One description; None if it cannot be read any more."""
        number, at = int(part.file[place]), int(part.at[place])
        try:
            with FrameFile(self._layout.file(ENDED, number)) as file:
                data = file.read(at, _GUESS)
                try:
                    return unpack_description(data)
                except msgpack.OutOfData:
                    return unpack_description(file.read(at, MAX_PAYLOAD))
        except (
            FileNotFoundError,
            StoreError,
            ValueError,
            TypeError,
            AttributeError,
            msgpack.UnpackException,
        ):
            return None  # the file expired, or it is damaged and `add` warned of it


def _tables(file: FrameFile, number: int, begin: int, end: int) -> Iterator[_Part]:
    for at, head, payload in file.frames(begin, end, (DESCRIPTIONS,)):
        if head.kind == DESCRIPTIONS and head.entries * TABLE.itemsize <= head.length:
            table = description_table(payload, head.entries)
            yield _Part(
                table["key"].copy(),
                table["last_ms"].copy(),
                np.full(head.entries, number, np.uint32),
                table["offset"] + np.uint32(at + HEAD_SIZE),
            )


def _merged(parts: list[_Part]) -> _Part:
    """Merge parts; equal keys keep their order, over the parts and in each part."""
    whole = _Part(*map(np.concatenate, zip(*parts, strict=True)))
    return whole.only(np.argsort(whole.key, kind="stable"))
