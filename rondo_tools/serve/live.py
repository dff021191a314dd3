"""The live page's data: the whole fleet once, then the changes of each second, made once for all viewers.

Strategy: without viewers there is no work. The first request after a second makes the next look, and all
requests until the one after it get the same bytes. Looks are numbered. A viewer that has look N gets the
changes since then; one without a look, or with an old one, gets everything. VMs have small numbers, so the
changes of a thousand VMs in a second are a few kilobytes.

    {"seq", "now_ms", "store": path, "measures": [names], "host": [exits a second, oldest first],
     "health": [{what, level, word, text}],
     "vms": [[id, instance, start_ms, labels, state, end_ms, last_ms, now, spark]],
     "lives": [[instance, start_ms, state, end_ms, last_ms]]}
    {"deltas": [{"seq", "now_ms", "host": exits a second, "health", "born": [as in vms],
     "now": [[id, state, end_ms, last_ms, now]], "gone": [ids]}]}

`now` are the measures at the last tick, null without a value; `spark` are exits a second in the last minute.
`lives` are those that ended in the last HOST_S seconds, and those of `vms` that began in them.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from rondo_tools import clock
from rondo_tools.catalog import Series
from rondo_tools.store.reader import Question, Session, Store, Wanted
from rondo_tools.view.fleet import VM, Fleet, View
from rondo_tools.view.measures import MEASURES

EVERY_S = 0.9  # how long a look is used
FORGET_S = 60.0  # without a viewer for this time, the memory is freed
HOST_S = 600  # the range of the host's exits, and of lives
_KEPT = 10  # deltas
_MOST_LIVES = 2000
_PIECE_S = 60  # seconds read at once
_BEFORE_MS = 5_000  # read before a piece, for the rate of its first tick
_EXITS = "vcpu_exits_total"

Key = tuple[str, int]
Health = Callable[[int], list[dict[str, Any]]]


class Live:
    """Makes looks at the store that `open_store` returns, which is another one after a replacement.

    Thread-safe; `now_s` is time.monotonic's clock.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        health: Health,
        now_ms: Callable[[], int] = clock.now_ms,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_store, self._health = open_store, health
        self._now_ms, self._now_s = now_ms, now_s
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._fleet: Fleet | None = None
        self._looked_s = 0.0
        self._seq = now_ms()  # looks are over 1 ms apart, so no earlier process has used these numbers
        self._answers: dict[int, bytes] = {}  # compressed, by the viewer's look
        self._view: View | None = None
        self._seen: dict[Key, tuple[int, tuple[str, int, int]]] = {}
        self._next_id = 0
        self._lives: dict[Key, tuple[str, int, int]] = {}
        self._deltas: deque[bytes] = deque(maxlen=_KEPT)
        self._host: deque[float] = deque(maxlen=HOST_S)

    @np.errstate(all="ignore")  # infinities and overflow are valid values
    def answer(self, seen: int) -> bytes:
        """The changes since look `seen`, or everything: JSON, compressed with gzip. Raises StoreError."""
        with self._lock:
            if self._fleet is None or self._now_s() - self._looked_s > EVERY_S:
                try:
                    self._look()
                except BaseException:  # the data may be half of a look
                    self._drop()
                    raise
            if seen < self._seq - len(self._deltas) or seen > self._seq:
                seen = 0
            if seen not in self._answers:
                self._answers[seen] = gzip.compress(self._since(seen) if seen else self._whole(), 1, mtime=0)
            return self._answers[seen]

    def forget(self) -> bool:
        """Free the memory if there was no request for some time. Returns whether it did."""
        if not self._lock.acquire(blocking=False):
            return False  # a request holds the lock
        try:
            if self._fleet is None or self._now_s() - self._looked_s <= FORGET_S:
                return False
            self._drop()
            return True
        finally:
            self._lock.release()

    def _drop(self) -> None:
        self._store = self._fleet = self._view = None
        self._seen, self._lives, self._answers = {}, {}, {}
        self._deltas.clear()
        self._host.clear()

    def _look(self) -> None:
        now_ms = self._now_ms()
        store = self._open_store()
        if store is not self._store or self._fleet is None:
            self._drop()
            self._begin(store, now_ms)
        assert self._fleet is not None
        view = self._fleet.look(now_ms)
        self._looked_s = self._now_s()
        self._seq += 1
        self._answers.clear()
        self._view = view
        self._healthy = self._health(now_ms)
        born, changed, there = [], [], set()
        now = _rounded(view.now)
        spark = None
        for place, vm in enumerate(view.vms):
            key = vm.instance, vm.start_ms
            there.add(key)
            seen = self._seen.get(key)
            stands = view.states[place], vm.end_ms, vm.last_ms
            if seen is None:
                spark = _rounded(view.sums.spark) if spark is None else spark
                self._next_id += 1
                self._seen[key] = self._next_id, stands
                born.append(self._row(vm, now[place], spark[place]))
            elif seen[1] != stands:
                self._seen[key] = seen[0], stands
                changed.append([seen[0], *stands, now[place]])
            if seen is None or seen[1][0] != stands[0]:
                self._lives[key] = stands
        gone = [self._seen.pop(key)[0] for key in self._seen.keys() - there]
        self._forget_lives(now_ms)
        self._host.append(_total(view))
        delta = {"seq": self._seq, "now_ms": now_ms, "born": born, "now": changed, "gone": gone}
        delta |= {"host": self._host[-1], "health": self._healthy}
        self._deltas.append(_json(delta))

    def _begin(self, store: Store, now_ms: int) -> None:
        self._store, self._fleet = store, Fleet(store)
        self._next_id = 0
        self._seq += _KEPT + 1  # so that no viewer has one of these looks
        since_ms = now_ms - 1000 * HOST_S
        sessions = store.sessions(since_ms=since_ms)
        self._lives = {
            one.key: (one.end.reason, one.end.t_ms, one.last_ms)
            for one in sessions
            if one.end is not None and one.start_ms > since_ms and _is_vm(one.header.series)
        }
        self._host.extend(_exits_before(store, sessions, since_ms))

    def _row(self, vm: VM, now: list[float], spark: list[float]) -> list[Any]:
        number, stands = self._seen[vm.instance, vm.start_ms]
        return [number, vm.instance, vm.start_ms, dict(vm.labels), *stands, now, spark]

    def _forget_lives(self, now_ms: int) -> None:
        old_ms = now_ms - 1000 * HOST_S
        self._lives = {
            key: stands
            for key, stands in self._lives.items()
            if key[1] > old_ms and (not stands[1] or stands[1] > old_ms)
        }
        for key in sorted(self._lives, key=itemgetter(1))[:-_MOST_LIVES]:
            del self._lives[key]

    def _since(self, seen: int) -> bytes:
        new = self._seq - seen
        return b'{"deltas":[' + b",".join(list(self._deltas)[len(self._deltas) - new :]) + b"]}"

    def _whole(self) -> bytes:
        view, store = self._view, self._store
        assert view is not None and store is not None
        now, spark = _rounded(view.now), _rounded(view.sums.spark)
        return _json(
            {
                "seq": self._seq,
                "now_ms": view.now_ms,
                "store": str(store.path.absolute()),
                "measures": [measure.name for measure in MEASURES],
                "vms": [self._row(vm, now[place], spark[place]) for place, vm in enumerate(view.vms)],
                "lives": [[name, start_ms, *stands] for (name, start_ms), stands in self._lives.items()],
                "host": list(self._host),
                "health": self._healthy,
            }
        )


def _exits_before(store: Store, sessions: Sequence[Session], since_ms: int) -> list[float]:
    """The exits of all sessions in each of the HOST_S seconds from `since_ms`.

    Read in pieces: ten minutes of a thousand VMs are a hundred megabytes.
    """
    totals = np.zeros(HOST_S)
    wanted = [Wanted(one, _exits) for one in sessions]
    for first in range(0, HOST_S, _PIECE_S):
        begin_ms, end_ms = since_ms + 1000 * first, since_ms + 1000 * (first + _PIECE_S)
        for pieces in store.read(wanted, Question(0, begin_ms - _BEFORE_MS, end_ms)):
            for piece in pieces:
                grew = np.diff(piece.values, axis=0)
                grew = np.where(grew < 0, piece.values[1:], grew)
                late = piece.t_ms[1:] > begin_ms
                second = (piece.t_ms[1:][late] - since_ms - 1) // 1000
                np.add.at(totals, second, np.nansum(grew[late], axis=1))
    found: list[float] = np.round(totals).tolist()
    return found


def _exits(series: tuple[Series, ...]) -> tuple[int, ...]:
    return tuple(number for number, one in enumerate(series) if one.name == _EXITS)


def _is_vm(series: tuple[Series, ...]) -> bool:
    names = {name for measure in MEASURES for name in measure.names}
    return any(one.name in names for one in series)


def _total(view: View) -> float:
    exits = view.now[:, 0]
    running = np.array([state == "running" for state in view.states], np.bool_)
    return float(np.round(np.nansum(exits[running])))


def _rounded(values: npt.NDArray[np.float64]) -> list[list[float]]:
    """Round to the precision of the page: three decimals, none for large values."""
    found: list[list[float]] = np.where(np.abs(values) >= 100, np.round(values), np.round(values, 3)).tolist()
    return found


def _json(value: Any) -> bytes:
    """Encode as JSON; NaN becomes null."""
    return json.dumps(_without_nan(value), separators=(",", ":"), allow_nan=False).encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return value
