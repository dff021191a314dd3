"""The server: stores many streams from sockets, in one process with one event loop.

Strategy: in each turn, every readable connection gets one bounded read; if too many are readable,
`rounds` chooses. One write stores the data of all of them. Only then is the data taken from the sockets,
and ended streams are acknowledged. A connection with an error is closed with one log line. A producer
beyond its quota waits. A session continues on the newer of two connections.

While the disk is full, no connection is read: each producer keeps its unstored ticks.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Sequence
from functools import partial

from rondo_tools.errors import RondoError, StreamError
from rondo_tools.files import raise_descriptor_limit
from rondo_tools.listeners import Listener
from rondo_tools.ratelimit import RateLimit
from rondo_tools.signals import Signals
from rondo_tools.store.intake import Counts, Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reserve import FULL_DISK
from rondo_tools.store.server.background import Background
from rondo_tools.store.server.connection import Connection
from rondo_tools.store.server.rounds import Rounds
from rondo_tools.store.server.timers import Timers
from rondo_tools.store.upkeep import FULL_FOR_S, Forgotten
from rondo_tools.store.watermarks import Watermarks
from rondo_tools.units import format_count

log = logging.getLogger(__name__)

PATIENCE_S = 30.0  # for a first header, and for the rest of a message that has begun
ERRORS = ("stream", "store", "stalled", "replaced", "connection")
WARNINGS, WINDOW_S = 10, 60.0  # of a kind, in that time
_OWN_FDS = 64  # descriptors that are not connections
_ELSEWHERE = "its session continues on a newer connection"
# Connections that become readable within this time share a turn: a wake-up costs more than storing a tick.
_GATHER_S = 0.02
_TRY_AGAIN_S = 1.0  # while the disk is full
_RESUME_S = 0.1  # between two checks of the connections that wait for their quota
_KEEP_HOUSE_S = 60.0
_ROLL_UP_AGAIN_S = 10.0  # after a failed roll-up
_LAST_ROUNDS = 16  # to read the data that arrived before a stop signal


class Server:
    """Serves the listeners until a signal comes, or for `idle_exit_s` after the last connection.

    Raises StoreError if the store's folder was moved or replaced.
    """

    def __init__(
        self,
        store: OpenStore,
        listeners: Sequence[Listener],
        watermarks: Watermarks,
        signals: Signals,
        *,
        idle_exit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self.errors = dict.fromkeys(ERRORS, 0)
        self.timers = Timers(clock)
        self.store = store
        self.keeper = store.keeper
        self._limit = RateLimit(log, WARNINGS, WINDOW_S, clock)
        self._warn_of_refused = partial(self._limit.warn, "refused", "%s")
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._watermarks = watermarks
        self._signals = signals
        self._clock = clock
        self._background = Background()
        self._lag_ns = 0
        self._is_stopping = False
        self._connections: dict[int, Connection] = {}  # by descriptor
        self._rounds = Rounds()
        self._peeked: list[Connection] = []  # their bytes are gathered, but still in the socket
        self._paused: dict[Connection, float] = {}  # beyond their quota, and until when
        self._blocked = ""  # the error that keeps us from writing, such as ENOSPC
        self._blocked_since = 0.0
        self._no_roll_up_before = 0.0
        self._most = max(1, raise_descriptor_limit() - _OWN_FDS)
        self._is_accepting = False
        self._has_warned_of_limit = False
        self._idle_exit_s = idle_exit_s
        self._busy_at = clock()
        self._turns = 0
        self._epoll = select.epoll()

    @property
    def is_blocked(self) -> bool:
        """Whether nothing can be written now."""
        return bool(self._blocked)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def run(self) -> None:
        """Serve until it is time to stop; then close the connections that are left."""
        try:
            self.open()
            while not self._is_stopping and not self._is_idle():
                self.turn(self.timers.seconds_left())
                self.timers.run()
            rounds = 0
            while rounds < _LAST_ROUNDS and self.turn(0):
                rounds += self._rounds.is_over
        finally:
            self.close()

    def open(self) -> None:
        self._epoll.register(self._signals, select.EPOLLIN)
        self._epoll.register(self._background, select.EPOLLIN)
        self._accept_again()
        self.timers.every(_TRY_AGAIN_S, self._each_second)
        self.timers.every(_KEEP_HOUSE_S, self._keep_house, first_s=0.0)
        self.timers.every(_RESUME_S, self._resume)
        self.timers.every(PATIENCE_S / 6, self._cut_off_stalled)
        self.timers.every(WINDOW_S / 6, self._limit.report)
        for listener in self._listeners.values():
            log.info("listening on %s", listener.name)

    def turn(self, timeout: float | None) -> bool:
        """Wait, then read each readable connection once. False if none was readable."""
        if self._blocked:
            return self._wait_for_room(timeout)
        ready = self._epoll.poll(0)
        if not ready and timeout != 0 and self._epoll.poll(timeout):
            time.sleep(_GATHER_S)
            ready = self._epoll.poll(0)
        begin_ns = time.monotonic_ns()
        self._turns += 1
        first = self._turns % len(ready) if ready else 0  # another one is first in each turn
        known: list[Connection] = []
        fresh: list[Connection] = []
        for fd, _ in ready[first:] + ready[:first]:
            if (connection := self._connections.get(fd)) is not None:
                (fresh if connection.intake.session is None else known).append(connection)
            elif fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd == self._background.fileno():
                self._background.take()
            else:
                self._is_stopping |= bool(self._signals.take())
        for connection in self._rounds.next(known, fresh):
            if self._connections.get(connection.fileno()) is connection:
                self._read(connection)
        self.flush()
        self._lag_ns = max(self._lag_ns, time.monotonic_ns() - begin_ns)
        return bool(ready)

    def flush(self) -> None:
        """Write what the turn gathered, then take it out of the sockets. Raises as `Keeper.flush` does."""
        try:
            self.keeper.flush()
        except OSError as exc:
            self._block(exc)
            return
        if self._peeked:
            self.keeper.acknowledge()  # if we die before the close, data taken from a socket looks stored
        here = self._connections
        peeked = [one for one in self._peeked if here.get(one.fileno()) is one]
        self._peeked = []
        again = [connection for connection in peeked if connection.intake.is_pending]
        now = self._clock()
        for connection in peeked:
            if not connection.intake.is_pending:
                connection.take(now)
        for connection in [connection for connection in peeked if connection.has_ended]:
            connection.acknowledge()
            self._drop(connection)
        self._watermarks.update(self.keeper.newest_position())
        self._start_roll_up()
        for connection in again:
            self._gather(connection, connection.again)

    def finish(self) -> None:
        """Write what came after `run`: the last tick of our own metrics. It is lost if the write fails."""
        try:
            self.keeper.flush()
        except OSError as exc:
            log.debug("the last tick of our own metrics is not written: %s", exc)
        self._watermarks.update(self.keeper.newest_position())

    def take_lag_ns(self) -> int:
        """The longest turn since the last call."""
        lag_ns, self._lag_ns = self._lag_ns, 0
        return lag_ns

    def close(self) -> None:
        if self._blocked:
            count = format_count(len(self._connections), "connection")
            log.warning("closing %s with data not yet stored; producers will send it again", count)
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()
        self._background.close()
        self._epoll.close()

    # --- connections ------------------------------------------------------------------------------

    def _accept(self, listener: Listener) -> None:
        if not self._is_accepting:
            return
        if len(self._connections) >= self._most:
            count = format_count(self._most, "connection")
            self._stop_accepting(f"the limit of descriptors allows {count} at a time")
            return
        try:
            accepted = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as exc:
            self._stop_accepting(f"{listener.name}: {exc.strerror}")
            return
        connection = Connection(
            accepted, Intake(self.keeper, self.counts, self._warn_of_refused), self._clock()
        )
        self._connections[connection.fileno()] = connection
        self._epoll.register(connection, select.EPOLLIN)

    def _stop_accepting(self, why: str) -> None:
        """Leave new connections in the listeners' queues until another one closes."""
        if not self._has_warned_of_limit:
            log.warning("%s; new ones wait (ulimit -n)", why)
            self._has_warned_of_limit = True
        self._is_accepting = False
        for listener in self._listeners.values():
            self._epoll.unregister(listener)

    def _accept_again(self) -> None:
        if not self._is_accepting:
            self._is_accepting = True
            for listener in self._listeners.values():
                self._epoll.register(listener, select.EPOLLIN)

    def _read(self, connection: Connection) -> None:
        if connection.intake.is_replaced:
            self._cut_off(connection, "replaced", _ELSEWHERE)
            return
        known, now = self.keeper.sessions_begun, self._clock()
        size = self._gather(connection, connection.peek)
        connection.quota.take(now, sessions=self.keeper.sessions_begun - known, bytes=size or 0)
        if connection in self._peeked and (wait_s := connection.quota.ready_in(now)) > 0:
            self._paused[connection] = now + wait_s
            self._epoll.unregister(connection)

    def _gather(self, connection: Connection, gather: Callable[[], int | None]) -> int | None:
        """Gather a connection's data. An error of one connection does not affect the others."""
        try:
            size = gather()
        except RondoError as exc:
            self._cut_off(connection, "stream" if isinstance(exc, StreamError) else "store", str(exc))
        except ConnectionError as exc:
            log.debug("%s: %s", connection.name, exc.strerror)
            self.errors["connection"] += 1
            self._drop(connection)
        except OSError as exc:
            self._peeked.append(connection)
            self._block(exc)
        else:
            self._peeked.append(connection)
            return size
        return None

    def _cut_off(self, connection: Connection, kind: str, why: str) -> None:
        self.errors[kind] += 1
        self._limit.warn(f"closed ({kind})", "%s: closed: %s", connection.name, why)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        if self._paused.pop(connection, None) is None:
            self._epoll.unregister(connection)
        del self._connections[connection.fileno()]
        connection.close()
        self._busy_at = self._clock()
        if len(self._connections) < self._most:
            self._accept_again()

    def _resume(self) -> None:
        """Read connections again when their quota allows it."""
        now = self._clock()
        for connection in [connection for connection, until in self._paused.items() if until <= now]:
            del self._paused[connection]
            self._epoll.register(connection, select.EPOLLIN)

    # --- full disk --------------------------------------------------------------------------------

    def _block(self, exc: OSError) -> None:
        """Read no connection until the gathered data is written."""
        why = exc.strerror or str(exc)
        if not self._blocked:
            self._blocked_since = self._clock()
        if why != self._blocked:
            self.errors["store"] += 1
            log.warning(
                "%s: cannot write: %s; trying again every second", self.keeper.folder.layout.path, why
            )
        self._blocked = why

    def _wait_for_room(self, timeout: float | None) -> bool:
        wait_s = _TRY_AGAIN_S if timeout is None else min(timeout, _TRY_AGAIN_S)
        signals, background = self._signals.fileno(), self._background.fileno()
        ready, _, _ = select.select([signals, background], [], [], wait_s)
        if signals in ready:
            self._is_stopping |= bool(self._signals.take())
        if background in ready:
            self._background.take()
        return False

    def _try_again(self) -> None:
        before, self._blocked = self._blocked, ""
        try:
            self.keeper.flush()
        except OSError as exc:
            self._blocked = before
            self._block(exc)
            if exc.errno in FULL_DISK and self._clock() - self._blocked_since >= FULL_FOR_S:
                self.store.upkeep.give_up_reserve()  # for the next try; roll-ups evict files if they need to
            return
        log.info("%s: writing again", self.keeper.folder.layout.path)
        self.flush()

    # --- time -------------------------------------------------------------------------------------

    def _each_second(self) -> None:
        if self._blocked:
            self._try_again()
        else:
            self.keeper.give_up_gone()
            self.flush()
        self._start_roll_up()
        self._take_up_request()
        if not self._is_accepting and len(self._connections) < self._most:
            self._accept_again()

    def _cut_off_stalled(self) -> None:
        past = self._clock() - PATIENCE_S
        for connection in list(self._connections.values()):
            if connection.intake.is_replaced:
                self._cut_off(connection, "replaced", _ELSEWHERE)
            elif 0 < connection.waiting_since < past and connection not in self._paused and not self._blocked:
                self._cut_off(connection, "stalled", f"no complete message for {PATIENCE_S:.0f} s")

    def _is_idle(self) -> bool:
        if self._idle_exit_s is None or self._connections:
            return False
        return self._clock() - self._busy_at >= self._idle_exit_s

    # --- background -------------------------------------------------------------------------------

    def _start_roll_up(self) -> None:
        if self._clock() >= self._no_roll_up_before and (job := self.keeper.next_roll_up()) is not None:
            self._background.add("roll-up", job, self.keeper.take_over, self._not_rolled_up)

    def _keep_house(self) -> None:
        upkeep = self.store.upkeep
        self._background.add("housekeeping", upkeep.look, lambda _: upkeep.forget_gone(), self._not_kept)

    def _take_up_request(self) -> None:
        """Begin the next request to forget sessions."""
        forgetter = self.store.forgetter
        if (request := forgetter.next()) is None:
            return
        try:
            job = forgetter.begin(request)
        except OSError as exc:
            self._not_forgotten(exc)
            return
        self._background.add("forget", job, self._forgot, self._not_forgotten)

    def _forgot(self, result: Forgotten) -> None:
        answer = self.store.forgetter.done(result)
        log.info("%s: %s", self.keeper.folder.layout.path, answer.error or answer)

    def _not_forgotten(self, error: Exception) -> None:
        answer = self.store.forgetter.failed(error)
        self.keeper.folder.check()
        log.warning("%s: %s", self.keeper.folder.layout.path, answer.error)

    def _not_rolled_up(self, error: Exception) -> None:
        self._no_roll_up_before = self._clock() + _ROLL_UP_AGAIN_S
        self._warn_of("not rolled up yet", error)

    def _not_kept(self, error: Exception) -> None:
        self._warn_of("nothing expires yet", error)

    def _warn_of(self, what: str, error: Exception) -> None:
        """Raises StoreError if the folder was moved or replaced."""
        self.keeper.folder.check()
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        self._limit.warn(what, "%s: %s: %s", self.keeper.folder.layout.path, what, why)
