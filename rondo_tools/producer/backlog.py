"""The newest ticks, kept as the bytes that are sent, and what of them to send next. Does no I/O.

Strategy: who produces puts an item into the backlog and goes on. The backlog keeps the newest 600
items, sent or not, so that to deliver is to follow it, from the oldest kept to the end: a pipe does so
once, a socket once for each connection. What a full backlog pushes out unsent is lost, and counted.

A VM whose clock was set back goes on in another session: the backlog knows where each session begins,
so a follower can put the right header before an item, wherever it starts.

One thread may put while another follows: a lock is held for the moment. Nothing here knows what the
items mean.
"""

from __future__ import annotations

import threading
from collections import deque

KEPT = 600  # ticks: ten minutes of them, the span of the store's first tier


class Session:
    """What stands before and behind the items of a session, and the number of its first item."""

    __slots__ = ("end", "first", "header")

    def __init__(self, header: bytes, first: int) -> None:
        self.header = header
        self.end = b""
        self.first = first


class Backlog:
    """The newest `limit` items, each in its session. Items are numbered from 0, for ever."""

    __slots__ = ("_items", "_limit", "_lock", "_sessions", "_taken", "count", "dropped", "is_finished")

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._items: deque[bytes] = deque()
        self._sessions = deque([Session(b"", 0)])  # of the items kept and to come, oldest first
        self._taken = 0  # how many were handed to a follower, the first time
        self.count = 0  # how many there were ever
        self.dropped = 0  # how many of them went before they were taken
        self.is_finished = False

    @property
    def waiting(self) -> int:
        """How many items no follower has taken yet, those that were lost included."""
        return self.count - self._taken

    @property
    def untaken(self) -> int:
        """How many of the items that are kept no follower was given."""
        return min(self.count - self._taken, len(self._items))

    @property
    def last(self) -> bytes:
        """The last session with its last item alone."""
        session = self._sessions[-1]
        item = self._items[-1] if self.count > session.first else b""
        return session.header + item + session.end

    def begin(self, header: bytes) -> None:
        """The items to come follow this header; to be called before there is a follower."""
        with self._lock:
            self._sessions[-1].header = header

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """`end` closes the session of the items so far, `header` opens that of the items to come."""
        with self._lock:
            before = self._sessions[-1]
            before.end = end
            if before.first == self.count:  # it has no item, so nobody who does not know it needs to
                self._sessions.pop()
            self._sessions.append(Session(header, self.count))
            self._forget_sessions()

    def put(self, item: bytes) -> bool:
        """Add an item; True if that was the first time that one was lost for want of room."""
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
        """No item comes after this; `end` is what follows the last one."""
        with self._lock:
            self._sessions[-1].end = end
            self.is_finished = True

    def advance(self, follower: Follower, most: int) -> bytes:
        """What `Follower.next` returns."""
        session = self._sessions[-1]
        if follower.position == self.count and follower.session is session and not self.is_finished:
            return b""  # as after each tick that was sent; what another thread puts now is news to come
        with self._lock:
            if follower.position == self.count - 1 and follower.session is session and not self.is_finished:
                follower.position = self._taken = self.count  # the newest alone, as each tick that is sent
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
        """The session of the item with that number, or of the items to come; and where its items end."""
        session, until = self._sessions[-1], self.count
        if session.first > position:
            for session in reversed(self._sessions):
                if session.first <= position:
                    break
                until = session.first
        return session, until

    def _forget_sessions(self) -> None:
        """Forget those without an item that is kept, but for the last."""
        oldest = self.count - len(self._items)
        while len(self._sessions) > 1 and self._sessions[1].first <= oldest:
            self._sessions.popleft()


class Follower:
    """Reads a backlog once, from the oldest item that is kept to the end of the last session."""

    __slots__ = ("_backlog", "is_done", "items", "position", "session")

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.session: Session | None = None  # of what was returned last
        self.position = 0  # the number of the next item
        self.items = 0  # how many were returned
        self.is_done = False  # the end of the last session was returned

    def next(self, most: int) -> bytes:
        """The bytes that come next: items up to about `most` bytes, at least one; b"" while there are none.

        Before items of one session comes what has to stand between them and what was returned before:
        nothing, the header, or the end of the session before it and the header. The end of the last
        session comes alone.
        """
        return self._backlog.advance(self, most)
