"""A store with random sessions, some of them secret, for the tests of forgetting."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.live import Session as Live
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import End, Header
from tests.support.store.store_host import Clock

T0 = 1_795_395_000_000
TIERS = parse_tiers("1s:10m,3s:1h,9s:1d")
SECRET = 'tenant="zebra"'
VALUE = 1048576.8125  # its sums are exact, so averages equal it
NEEDLES = (b"zebra", b"z3bra", b"heron", struct.pack("<d", VALUE), struct.pack("<d", -VALUE))

_C = Series("c_total", (("n", "1"),), COUNTER, "things", "A counter.")
_G = Series("g_bytes", (), GAUGE, "bytes", "A gauge.")
_H = Series("h_bytes", (), GAUGE, "bytes", "Another gauge.")
_OWN = Series("own_heron_bytes", (("user", "heron"),), GAUGE, "bytes", "Only secret sessions have it: heron.")
SHARED = ((_C, _G), (_G, _H, _C), (_G,))
OWN = ((_OWN,), (_C, _OWN, _G), *SHARED)


class Host:
    """Writes random sessions into a store, the same ones with the same seed."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        self.clock = Clock()
        self.now_ms = T0
        self._random = random.Random(seed)
        self._begun: dict[tuple[str, int], Header] = {}

    def open(self) -> OpenStore:
        return OpenStore(self.path, TIERS, now_ms=lambda: self.now_ms, clock=self.clock, max_bytes=1 << 30)

    def copy_to(self, path: Path) -> Host:
        """Another one that continues from here, on a copy of the store."""
        other = Host(path)
        other.clock.now, other.now_ms = self.clock.now, self.now_ms
        other._random.setstate(self._random.getstate())
        other._begun = dict(self._begun)
        return other

    def play(self, steps: int) -> None:
        """Play some turns, in one or more processes."""
        for _ in range(2):
            with self.open() as store:
                for _ in range(steps):
                    self._step(store)

    def _step(self, store: OpenStore) -> None:
        keeper, choice = store.keeper, self._random.random()
        self.now_ms += 1000
        self.clock.now += 1
        for _ in range(self._random.randrange(4)):
            session, header = self._session(store)
            is_secret = ("tenant", "zebra") in header.labels
            for _ in range(self._random.randrange(1, 4)):
                t_ms = session.last_ms + self._random.choice((200, 1000, 1000, 5000))
                if session.last_ms == 0 or t_ms > self.now_ms:
                    t_ms = self.now_ms
                values = [VALUE if is_secret else self._random.uniform(-1e6, 1e6) for _ in header.series]
                keeper.append(session, t_ms, struct.pack(f"<{len(values)}d", *values))
            if self._random.random() < 0.2:
                keeper.end(session, End("poweroff", session.last_ms + 1))
            keeper.release(session, self)
        keeper.flush()
        if choice < 0.1:
            self.now_ms += 40_000
            self.clock.now += 40
            keeper.give_up_gone()
        if choice < 0.3:
            keeper.end_journal()
        if choice < 0.2:
            store.keep_house()

    def _session(self, store: OpenStore) -> tuple[Live, Header]:
        """A session that begins, continues, or comes back, usually with its earlier series."""
        number = self._random.randrange(8)
        is_secret = number < 3
        name = (
            ("zebra-vm", "z3bra", "zebra")[number]
            if is_secret
            else ("a", "vm-1", "zeb", "vm-10", "b")[number - 3]
        )
        starts = [start_ms for instance, start_ms in self._begun if instance == name]
        if not starts or self._random.random() < 0.1:
            starts = [self.now_ms]
        labels = (("tenant", "zebra"),) if is_secret else (("tenant", "acme"), ("zone", name))
        series = self._random.choice(OWN if is_secret else SHARED)
        header = self._begun.get((name, starts[-1]), Header(name, starts[-1], labels, 1000, series))
        if self._random.random() < 0.2:
            header = header._replace(series=series)
        self._begun[name, starts[-1]] = header
        return store.keeper.begin(header, self), header


def answers(path: Path, *, in_order: bool = True) -> dict[SessionKey, object]:
    """Everything that a reader returns about the sessions that are not secret, to the bit.

    The order of the series of several headers may depend on other streams in the same turn: without
    `in_order` it is ignored.
    """
    found: dict[SessionKey, object] = {}
    for one in Store(path).sessions():
        if dict(one.labels).get("tenant") == "zebra":
            continue
        series = one.header.series
        rows = [one.rows(tier) for tier in range(len(TIERS))]
        columns = [
            {
                (series[column.series], column.aggregate): some.values[:, at].tobytes()
                for at, column in enumerate(one.columns(tier))
            }
            for tier, some in enumerate(rows)
        ]
        found[one.key] = (
            one.labels, one.interval_ms, series if in_order else set(series), one.first_ms, one.last_ms,
            one.ticks, one.end, one.whole_since_ms(rows[0]),
            [(part.schema.packed, part.t_ms.tobytes(), part.values.tobytes()) for part in one.runs()],
            [(some.t_ms.tobytes(), some.skipped) for some in rows], columns,
        )  # fmt: skip
    return found


def secrets(path: Path) -> list[SessionKey]:
    return [one.key for one in Store(path).sessions() if dict(one.labels).get("tenant") == "zebra"]


def traces(path: Path, needles: tuple[bytes, ...] = NEEDLES) -> Iterator[tuple[str, bytes]]:
    """The files in a folder that contain data of the secret sessions."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            yield from ((str(file.relative_to(path)), needle) for needle in needles if needle in data)


def findings(path: Path) -> list[tuple[str, str]]:
    return [(one.path.name, one.what) for one in Store(path).checker().findings()]
