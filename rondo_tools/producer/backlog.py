"""The newest ticks, kept as the bytes to send, and a position for each follower. Does no I/O.

Strategy: the producer appends an item and returns. The backlog keeps the newest 600 items, sent or not. To
deliver, a follower reads it from the oldest item to the end: a pipe once, a socket once per connection. A
full backlog drops its oldest item; an unsent one is lost, and counted.

A VM whose clock was set back continues in another session. The backlog knows where each session begins, so
a follower gets the right header before its first item.

One thread may put while another follows: a lock protects each call. The backlog does not interpret items.
"""

from __future__ import annotations

import threading
from collections import deque

KEPT = 600  # ticks: ten minutes of them, the span of the store's first tier


class Session:
    """The header and end of a session's items, and the number of its first item."""

    __slots__ = ("end", "first", "header")

    def __init__(self, header: bytes, first: int) -> None:
        self.header = header
        self.end = b""
        self.first = first


class Backlog:
    """The newest `limit` items, each in its session. Items are numbered from 0; a number is never reused."""

    __slots__ = ("_items", "_limit", "_lock", "_sessions", "_taken", "count", "dropped", "is_finished")

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._items: deque[bytes] = deque()
        self._sessions = deque([Session(b"", 0)])  # of the items kept and to come, oldest first
        self._taken = 0  # items that a follower has taken, each counted once
        self.count = 0  # items ever put
        self.dropped = 0  # items dropped before a follower took them
        self.is_finished = False

    @property
    def waiting(self) -> int:
        """How many items no follower has taken, including lost ones."""
        return self.count - self._taken

    @property
    def untaken(self) -> int:
        """How many kept items no follower has taken."""
        return min(self.count - self._taken, len(self._items))

    @property
    def last(self) -> bytes:
        """The last session with only its last item."""
        session = self._sessions[-1]
        item = self._items[-1] if self.count > session.first else b""
        return session.header + item + session.end

    def begin(self, header: bytes) -> None:
        """Set the header of the next items; call it before there is a follower."""
        with self._lock:
            self._sessions[-1].header = header

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """Close the session with `end`, and open another for the next items with `header`."""
        with self._lock:
            before = self._sessions[-1]
            before.end = end
            if before.first == self.count:  # it has no item, so no follower needs its header
                self._sessions.pop()
            self._sessions.append(Session(header, self.count))
            self._forget_sessions()

    def put(self, item: bytes) -> bool:
        """Add an item; True if this is the first time that an item is lost."""
        with self._lock:
            self._items.append(item)
            self.count += 1
            if len(self._items) <= self._limit:
                return False
            self._items.popleft()
            self._forget_sessions()
            if self.count - self._limit <= self._taken:
                return False
            self.dropped += 1
            return self.dropped == 1

    def finish(self, end: bytes) -> None:
        """Close the last session with `end`; no items may follow."""
        with self._lock:
            self._sessions[-1].end = end
            self.is_finished = True

    def advance(self, follower: Follower, most: int) -> bytes:
        """The result of `Follower.next`."""
        session = self._sessions[-1]
        if follower.position == self.count and follower.session is session and not self.is_finished:
            return b""  # the usual case after a sent tick; an item that another thread puts now is news later
        with self._lock:
            if follower.position == self.count - 1 and follower.session is session and not self.is_finished:
                follower.position = self._taken = self.count  # only the newest: the usual case of a new tick
                follower.items += 1
                return self._items[-1]
            oldest = self.count - len(self._items)
            begin = position = max(follower.position, oldest)
            session, until = self._session_at(position)
            parts = []
            if session is not follower.session:
                parts.append(
                    session.header if follower.session is None else follower.session.end + session.header
                )
                follower.session = session
            if position == until and self.is_finished and not follower.is_done and not any(parts):
                follower.is_done = True
                parts.append(session.end)
            size = 0
            while position < until and size < most:
                item = self._items[position - oldest]
                parts.append(item)
                size += len(item)
                position += 1
            follower.position = position
            follower.items += position - begin
            self._taken = max(self._taken, position)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _session_at(self, position: int) -> tuple[Session, int]:
        """The session of the item with that number, or of the next items, and the end of its items."""
        session, until = self._sessions[-1], self.count
        if session.first > position:
            for session in reversed(self._sessions):
                if session.first <= position:
                    break
                until = session.first
        return session, until

    def _forget_sessions(self) -> None:
        """Forget sessions without a kept item, except the last."""
        oldest = self.count - len(self._items)
        while len(self._sessions) > 1 and self._sessions[1].first <= oldest:
            self._sessions.popleft()


class Follower:
    """Reads a backlog once, from the oldest kept item to the end of the last session."""

    __slots__ = ("_backlog", "is_done", "items", "position", "session")

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.session: Session | None = None  # of the last returned bytes
        self.position = 0  # the number of the next item
        self.items = 0  # returned items
        self.is_done = False  # the end of the last session was returned

    def next(self, most: int) -> bytes:
        """The next bytes: items up to about `most` bytes, at least one; b"" while there are none.

        The first items of a session follow its header, and that follows the end of the session before. The
        end of the last session is returned alone.
        """
        return self._backlog.advance(self, most)
