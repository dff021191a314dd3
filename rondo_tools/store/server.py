"""Many streams at once, from sockets into the store: one process, one event loop.

Strategy: each turn, every connection that has something to say gets one bounded read, which is
stored before the next one's; so a producer that floods, stalls or lies costs the others a millisecond
at most. A connection that cannot go on is cut off with one line. A session goes on where it was
heard of last: when a producer connects anew, its old connection is closed.

What is not stored stays in the producer's socket, see `client`.
"""

from __future__ import annotations

import errno
import logging
import math
import resource
import select
import time
from collections.abc import Callable, Sequence
from functools import partial

from rondo_tools.clock import LatestTime
from rondo_tools.errors import RondoError, StreamError
from rondo_tools.signals import Signals
from rondo_tools.store import complaints
from rondo_tools.store.chores import Chores
from rondo_tools.store.client import Client
from rondo_tools.store.complaints import Complaints
from rondo_tools.store.endpoint import Listener
from rondo_tools.store.ingest import Counts, Ingest
from rondo_tools.store.lines import Lines
from rondo_tools.store.timers import Timers
from rondo_tools.store.turn import Turn
from rondo_tools.store.writer import StoreWriter
from rondo_tools.units import format_count

log = logging.getLogger(__name__)

PATIENCE_S = 30.0  # for a first header, and for the rest of a message that has begun
ERRORS = ("stream", "store", "stalled", "replaced", "connection")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
_OWN_FDS = 64  # descriptors that are not a connection's
_FDS_EACH = 2  # a connection's socket, and the first slab of its session
_ELSEWHERE = "its session goes on on another connection"
# Who speaks up within so long is heard in one turn: to be woken costs more than to store a tick.
_GATHER_S = 0.02
_LAST_TURNS = 16  # for what has arrived when we are told to stop
_CATCH_UP_S = 0.002  # of a turn, for roll-ups: windows close for all sessions at the same moment


class Server:
    """Serves the listeners until a signal comes, or nobody has been there for `idle_exit_s`."""

    def __init__(
        self,
        store: StoreWriter,
        listeners: Sequence[Listener],
        lines: Lines,
        signals: Signals,
        *,
        idle_exit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.counts = Counts()
        self.errors = dict.fromkeys(ERRORS, 0)
        self.timers = Timers(clock)
        self.chores = Chores()
        self._complaints = Complaints()
        self._now_ms = now_ms or LatestTime()  # one for all: who connects after a step needs it too
        self._warn_of_clock = partial(self._complaints.say, "ahead of the clock")
        self.store = store
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._lines = lines
        self._signals = signals
        self._clock = clock
        self._closed: dict[str, int] = {}
        self._lag_ns = 0
        self._is_told_to_stop = False
        self._clients: dict[int, Client] = {}  # by descriptor
        self._held: dict[Client, str] = {}  # what it is that there is no room for
        self._most = max(1, (raise_descriptor_limit() - _OWN_FDS) // _FDS_EACH)
        self._is_accepting = False
        self._has_told_of_most = False
        self._idle_exit_s = idle_exit_s
        self._busy_at = clock()
        self._is_behind = False
        self._turn = Turn(clock)
        self._turns = 0
        self._epoll = select.epoll()

    @property
    def connections(self) -> int:
        return len(self._clients)

    def run(self) -> None:
        """Returns when it is time to go; what was stored is then closed, and who is left cut off."""
        try:
            self.open()
            while not self._is_told_to_stop and not self._is_idle():
                self.turn(self.timers.seconds_left())
                self.timers.run()
            self._turn.seconds = math.inf
            for _ in range(_LAST_TURNS):
                if not self.turn(0):
                    break
        finally:
            self.close()

    def open(self) -> None:
        self._epoll.register(self._signals, select.EPOLLIN)
        self._accept_again()
        self.timers.every(1.0, self._try_held)
        self.timers.every(PATIENCE_S / 6, self._cut_off_stalled)
        self.timers.every(60.0, partial(self.chores.add, self.store.room.make_room))
        self.timers.every(3600.0, partial(self.chores.add, self.store.room.expire))
        self.timers.every(complaints.EVERY_S, self._complaints.next_minute)
        for listener in self._listeners.values():
            log.info("listening on %s", listener.name)

    def turn(self, timeout: float | None) -> bool:
        """Wait, and give everybody who has something to say one read. False if nobody had."""
        ready = self._epoll.poll(0)
        if not ready and timeout != 0 and not self._is_behind and self._epoll.poll(timeout):
            time.sleep(_GATHER_S)
            ready = self._epoll.poll(0)
        begin_ns = time.monotonic_ns()
        self._turn.begin()
        self._turns += 1
        first = self._turns % len(ready) if ready else 0  # each is first at some time
        for fd, _ in ready[first:] + ready[:first]:
            if fd in self._clients:
                self._read(self._clients[fd])
            elif fd in self._listeners:
                self._accept(self._listeners[fd])
            else:
                self._is_told_to_stop |= bool(self._signals.take())
        self.tell_all()
        self._is_behind = self.store.catch_up(_CATCH_UP_S)
        self._lag_ns = max(self._lag_ns, time.monotonic_ns() - begin_ns)
        return bool(ready)

    def tell_all(self) -> None:
        self._lines.update(self._closed)
        self._closed.clear()

    def take_lag_ns(self) -> int:
        """The longest turn since the last call."""
        lag_ns, self._lag_ns = self._lag_ns, 0
        return lag_ns

    def tell(self, folder: str, closed_through_ms: int) -> None:
        """Tell the reader of the lines, too, of a session that is not a client's."""
        self._closed[folder] = closed_through_ms

    # --- connections ------------------------------------------------------------------------------

    def _accept(self, listener: Listener) -> None:
        if not self._is_accepting:
            return
        if len(self._clients) >= self._most:
            count = format_count(self._most, "connection")
            self._stop_accepting(f"the limit of descriptors allows {count} at a time")
            return
        try:
            connection = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as exc:
            self._stop_accepting(f"{listener.name}: {exc.strerror}")
            return
        ingest = Ingest(
            self.store,
            self._now_ms,
            counts=self.counts,
            closed=self._closed,
            turn=self._turn,
            warn=self._warn_of_clock,
        )
        client = Client(connection, ingest, self._clock())
        self._clients[client.fileno()] = client
        self._epoll.register(client, select.EPOLLIN)

    def _stop_accepting(self, why: str) -> None:
        """Let new connections wait in the listeners' queues until there is room."""
        if not self._has_told_of_most:
            log.warning("%s; new ones wait (ulimit -n)", why)
            self._has_told_of_most = True
        self._is_accepting = False
        for listener in self._listeners.values():
            self._epoll.unregister(listener)

    def _accept_again(self) -> None:
        if not self._is_accepting:
            self._is_accepting = True
            for listener in self._listeners.values():
                self._epoll.register(listener, select.EPOLLIN)

    def _read(self, client: Client) -> None:
        if client.is_replaced:
            self._cut_off(client, "replaced", _ELSEWHERE)
        else:
            self._attempt(client, lambda: client.read(self._clock()))

    def _attempt(self, client: Client, store: Callable[[], bool | None]) -> bool:
        """Let a client store; whatever goes wrong concerns it alone. Whether it went through."""
        try:
            if store() is False:
                self._drop(client)
        except RondoError as exc:
            self._cut_off(client, "stream" if isinstance(exc, StreamError) else "store", str(exc))
        except ConnectionError as exc:
            log.debug("%s: %s", client.name, exc.strerror)
            self.errors["connection"] += 1
            self._drop(client)
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                self._hold(client, exc)
                return False
            self._cut_off(client, "store", str(exc))
        return True

    def _cut_off(self, client: Client, kind: str, why: str) -> None:
        self.errors[kind] += 1
        self._complaints.say(f"cut off ({kind})", f"{client.name}: cut off: {why}")
        self._drop(client)

    def _drop(self, client: Client) -> None:
        if client not in self._held:
            self._epoll.unregister(client)
        self._held.pop(client, None)
        del self._clients[client.fileno()]
        client.close()
        self._busy_at = self._clock()
        if len(self._clients) < self._most:
            self._accept_again()

    # --- no room ----------------------------------------------------------------------------------

    def _hold(self, client: Client, exc: OSError) -> None:
        """Let a client wait for room, its ticks in its socket; the others go on."""
        if client in self._held:
            return
        why = exc.strerror or str(exc)
        if why not in self._held.values():
            self.errors["store"] += 1
            log.warning("%s: %s; waiting for room", client.name, why)
        self._held[client] = why
        self._epoll.unregister(client)

    def _try_held(self) -> None:
        for client in list(self._held):
            self._turn.begin()
            if client.is_replaced:
                self._cut_off(client, "replaced", _ELSEWHERE)
            elif self._attempt(client, partial(client.store, self._clock())) and client in self._held:
                del self._held[client]
                self._epoll.register(client, select.EPOLLIN)
                if not self._held:
                    log.info("there is room again")
        if not self._is_accepting and len(self._clients) < self._most:
            self._accept_again()

    # --- time -------------------------------------------------------------------------------------

    def _cut_off_stalled(self) -> None:
        past = self._clock() - PATIENCE_S
        for client in list(self._clients.values()):
            if client.is_replaced:
                self._cut_off(client, "replaced", _ELSEWHERE)
            elif 0 < client.waiting_since < past and client not in self._held and not client.is_behind:
                self._cut_off(client, "stalled", f"nothing whole has come for {PATIENCE_S:.0f} s")

    def _is_idle(self) -> bool:
        if self._idle_exit_s is None or self._clients:
            return False
        return self._clock() - self._busy_at >= self._idle_exit_s

    def close(self) -> None:
        if self._held:
            count = format_count(len(self._held), "connection")
            log.warning("closing %s with data not yet stored; producers will send it again", count)
        for client in list(self._clients.values()):
            client.close()
        self._clients.clear()
        self._epoll.close()


def raise_descriptor_limit() -> int:
    """Allow ourselves as many descriptors as we may have; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
    if soft != resource.RLIM_INFINITY and soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        return soft
    return wanted
