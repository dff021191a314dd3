"""The content of journals, read frame by frame, and a disk that fails when a test wants it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.errors import StoreError
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import LOST, EndRecord, SessionKey, SessionRecord, ends_in, sessions_in
from rondo_tools.stream import Decoder, End, Header, Tick

NOW_MS = 1_732_300_000_000
START_MS = NOW_MS - 3_600_000

SERIES = (
    (Series("a_total", (), COUNTER, "", ""), Series("b", (), GAUGE, "", "")),
    (Series("a_total", (), COUNTER, "", ""), Series("b", (), GAUGE, "", ""), Series("c", (), GAUGE, "", "")),
    (Series("d", (("disk", "0"),), GAUGE, "", ""),),
)

Row = tuple[int, tuple[Series, ...], bytes]


@dataclass
class Journals:
    """The content of journals, in their order."""

    rows: dict[SessionKey, list[Row]] = field(default_factory=dict)
    ends: dict[SessionKey, list[EndRecord]] = field(default_factory=dict)
    records: list[tuple[int, SessionRecord]] = field(default_factory=list)  # (journal, record)
    newest: dict[int, dict[str, int]] = field(default_factory=dict)  # tick, by journal and instance
    damaged: int = 0  # bytes

    def state_of(self, key: SessionKey) -> str | None:
        """The reason of a session's end, if there is one."""
        last_ms = self.rows[key][-1][0] if self.rows.get(key) else 0
        ended = [one.reason for one in self.ends.get(key, ()) if one.reason != LOST or one.last_ms >= last_ms]
        return ended[-1] if ended else None

    def check_lines_of_time(self) -> None:
        """Fails unless each journal alone has the newest earlier tick of each instance.

        A push at the begin of a journal has delivered the ticks up to that one, and no more.
        """
        declared: dict[tuple[int, str], int] = {}
        for number, record in self.records:
            declared.setdefault((number, record.instance), max(record.last_ms, record.before_ms))
        for (number, instance), time_ms in declared.items():
            before = [newest.get(instance, 0) for journal, newest in self.newest.items() if journal < number]
            assert time_ms == max(before, default=0), (number, instance)


def read_journals(store: Path, up_to: int = 1 << 32) -> Journals:
    """The content of journals up to `up_to`.

    Fails if a row comes before its session or schema, or before an older row of its session.
    """
    found, layout = Journals(), Layout(store)
    for number in layout.numbers(JOURNALS):
        if number > up_to:
            break
        try:
            file = FrameFile(layout.file(JOURNALS, number))
        except StoreError:
            data = layout.file(JOURNALS, number).read_bytes()
            assert not any(data[frames.FILE_SIZE :]), "only the power takes a file's header"
            continue
        with file:
            assert file.header.number == number
            sessions: dict[int, SessionKey] = {}
            for _, head, payload in file.frames():
                if head.kind == frames.SESSION:
                    for record in sessions_in(payload):
                        assert record.number == len(sessions), "numbers are dense in a file"
                        assert record.key not in sessions.values(), "declared once"
                        sessions[record.number] = record.key
                        found.records.append((number, record))
                elif head.kind == frames.END:
                    for end in ends_in(payload):
                        found.ends.setdefault(sessions[end.number], []).append(end)
                elif head.kind == frames.ROWS:
                    rows = file.rows(head, payload)
                    assert rows is not None
                    assert len(rows) == head.entries
                    assert (rows["t_ms"].min(), rows["t_ms"].max()) == (head.least_ms, head.greatest_ms)
                    assert rows["session"].min() == head.least_session
                    assert rows["session"].max() == head.greatest_session
                    for row in rows:
                        known = found.rows.setdefault(sessions[int(row["session"])], [])
                        one = int(row["t_ms"]), file.schemas[head.schema].series, row["values"].tobytes()
                        assert not known or known[-1][0] < one[0], "times of a session ascend"
                        known.append(one)
                        instance = sessions[int(row["session"])][0]
                        in_file = found.newest.setdefault(number, {})
                        in_file[instance] = max(in_file.get(instance, 0), one[0])
            found.damaged += file.damage.bytes
    return found


@dataclass
class Model:
    """The expected content of journals, updated event by event."""

    rows: dict[SessionKey, list[Row]] = field(default_factory=dict)
    ends: dict[SessionKey, str] = field(default_factory=dict)

    def take(self, header: Header, event: Tick | End) -> None:
        key = header.instance, header.start_ms
        if key in self.ends:
            return
        if isinstance(event, End):
            self.ends[key] = event.reason
            return
        rows = self.rows.setdefault(key, [])
        if not rows or rows[-1][0] < event.t_ms:
            rows.append((event.t_ms, header.series, event.values))

    def check(self, journals: Journals) -> None:
        """Fails unless journals have exactly this content."""
        assert {key: rows for key, rows in journals.rows.items() if rows} == {
            key: rows for key, rows in self.rows.items() if rows
        }
        for key in self.rows.keys() | self.ends.keys():
            state = journals.state_of(key)
            assert (None if state == LOST else state) == self.ends.get(key)


class Reference:
    """Feeds one stream into the model, with the plain decoder."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._decoder = Decoder()
        self._header: Header | None = None

    def feed(self, data: bytes) -> None:
        for event in self._decoder.feed(data):
            if isinstance(event, Header):
                self._header = event
            else:
                assert self._header is not None
                self._model.take(self._header, event)


def pieces(chance: random.Random, data: bytes) -> Iterator[bytes]:
    """The stream, split anywhere."""
    at = 0
    while at < len(data):
        size = chance.choice((1, 7, 40, 200, 1500, 9000))
        yield data[at : at + size]
        at += size


class Killed(BaseException):
    """The process was killed."""


class Disk:
    """`os` for the modules that write. `fault` gives the fault of each step, before it.

    None: no fault; "kill": the process dies, in the middle of a write; "short": a write is incomplete and
    the next one fails; "fail": the step fails. `synced` is the synced size of each file.
    """

    def __init__(self, fault: Callable[[int, str], str | None], chance: random.Random) -> None:
        self.steps = 0
        self.synced: dict[str, int] = {}
        self._fault = fault
        self._chance = chance
        self._is_dead = False
        self._fails_next = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _step(self, name: str) -> str | None:
        if self._is_dead:
            raise Killed
        self.steps += 1
        fault = self._fault(self.steps, name)
        if fault == "kill":
            self._is_dead = True
            if name != "write":
                raise Killed
        if fault == "fail" or (fault == "short" and name != "write"):
            raise OSError(errno.EIO if "sync" in name else errno.ENOSPC, "as the test says")
        return fault

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._step("create")
        return os.open(path, flags, mode)

    def write(self, fd: int, data: bytes) -> int:
        if self._fails_next:
            self._fails_next = False
            raise OSError(errno.ENOSPC, "as the test says")
        fault = self._step("write")
        if fault is None:
            return os.write(fd, data)
        size = self._chance.randrange(1, len(data) + (fault == "kill")) if len(data) > 1 else 0
        written = os.write(fd, data[:size])
        if fault == "kill":
            raise Killed
        self._fails_next = True
        return written

    def fdatasync(self, fd: int) -> None:
        self._step("sync")
        self.synced[str(Path(f"/proc/self/fd/{fd}").readlink())] = os.fstat(fd).st_size

    def fsync(self, fd: int) -> None:
        self._step("sync folder")

    def cut_power(self, store: Path) -> None:
        """Lose the unsynced bytes: they are cut off, zeros, or still there."""
        for path in (store / JOURNALS).iterdir():
            synced, size = self.synced.get(str(path), 0), path.stat().st_size
            kept = self._chance.randint(synced, size)
            with path.open("r+b") as file:
                file.truncate(kept)
                if self._chance.random() < 0.5:
                    file.truncate(size)
