"""A link: when it connects, what it sends, what acknowledges; with a clock that the test sets."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rondo_tools import stream
from rondo_tools.producer.address import Candidate, TcpAddress
from rondo_tools.producer.link import Link, State
from rondo_tools.producer.output import Output
from tests.support.needs import PATIENCE_S
from tests.support.producer.peers import Loop, RecordedNotices, Store, head, received, tick, ticks

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "sock")
    yield store
    store.close()


@pytest.fixture
def links() -> Iterator[list[Link]]:
    """Links to close at the end of the test."""
    links: list[Link] = []
    yield links
    for link in links:
        link.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def notices() -> RecordedNotices:
    return RecordedNotices()


@pytest.fixture
def link(store: Store, links: list[Link], notices: RecordedNotices) -> Link:
    """Without jitter: pauses have their full length."""
    links.append(Link(store.address, "link", notices=notices, jitter=lambda _, most: most))
    links[0].begin(head())
    return links[0]


def put(link: Output, *numbers: int) -> None:
    for number in numbers:
        link.put(tick(number))


def test_a_tick_is_sent_at_once_if_the_socket_accepts_it(loop: Loop, store: Store, link: Link) -> None:
    store.listen()
    loop.update(link)
    with store.accept() as connection:
        assert received(connection) == head()
        put(link, 0)
        assert received(connection) == b""  # a put does no I/O
        loop.update(link)
        assert received(connection) == tick(0)
        assert not link.wants_write
        assert loop.driver.timeout(loop.now) == -1  # it waits only for news


def test_pauses_double_up_to_five_seconds_and_end_soon_after_the_end(
    loop: Loop, store: Store, link: Link, notices: RecordedNotices
) -> None:
    loop.update(link)
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        assert loop.driver.timeout(loop.now) == pytest.approx(pause_s)
        loop.turn(pause_s)
    link.finish(b"end")
    loop.update(link)
    for _ in range(3):
        assert loop.driver.timeout(loop.now) == pytest.approx(0.5)
        loop.turn(0.5)
    store.listen()
    loop.turn(0.5)
    assert notices.lines == ["link failed: No such file or directory", "link connected"]  # once


def test_pauses_are_short_again_after_a_long_attempt(loop: Loop, store: Store, link: Link) -> None:
    loop.update(link)
    for _ in range(5):
        loop.turn(5)
    store.listen()
    loop.turn(5)
    store.accept().close()
    loop.turn(0.0)
    assert loop.driver.timeout(loop.now) == 5.0  # it was short
    loop.turn(5)
    connection = store.accept()
    loop.turn(5.5)
    connection.close()
    loop.turn()
    assert loop.driver.timeout(loop.now) == pytest.approx(0.1)


def test_a_peer_that_goes_away_is_noticed_with_nothing_to_send(
    loop: Loop, store: Store, link: Link, notices: RecordedNotices
) -> None:
    store.listen()
    loop.update(link)
    put(link, 0)
    loop.update(link)
    store.accept().close()
    loop.turn()
    assert (link.state, link.fileno()) == (State.PAUSING, -1)
    loop.turn(0.1)
    with store.accept() as connection:
        assert received(connection) == head() + tick(0)
    assert len(notices.lines) == 2


def test_a_peer_that_accepts_nothing_for_ten_seconds_is_given_up(
    loop: Loop, store: Store, link: Link, notices: RecordedNotices
) -> None:
    store.listen()
    loop.update(link)
    with store.accept():
        for number in range(600):
            link.put(b"%1000d;" % number)  # more than the socket accepts
            loop.update(link)
        assert link.wants_write
        for _ in range(3):
            loop.turn(3)
            put(link, 1)
            loop.update(link)
            assert link.state is State.SENDING
        loop.turn(1.1)
        assert link.state is State.PAUSING
    assert notices.lines == ["link failed: timed out"]


def test_a_slow_peer_is_not_given_up(loop: Loop, store: Store, link: Link) -> None:
    store.listen()
    loop.update(link)
    sent = head()
    for number in range(600):
        link.put(item := b"%1000d;" % number)
        sent += item
    loop.update(link)
    got = b""
    with store.accept() as connection:
        while link.wants_write:
            loop.turn(9)
            got += connection.recv(1 << 16)
            loop.turn()
            assert link.state is State.SENDING
        assert got + received(connection) == sent


def test_only_a_close_after_the_end_acknowledges(
    loop: Loop, store: Store, link: Link, notices: RecordedNotices
) -> None:
    store.listen()
    loop.update(link)
    put(link, 0, 1)
    link.finish(b"end")
    loop.update(link)
    with store.accept() as connection:
        assert received(connection) == head() + ticks(0, 2) + b"end"
        loop.turn(9)
        assert (link.missing, link.is_over) == (2, False)
        loop.turn(1.1)  # it has not closed in time
    loop.turn(0.5)
    with store.accept() as connection:
        assert received(connection) == head() + ticks(0, 2) + b"end"
        connection.sendall(stream.encode_refused({"ahead": 1}))
        loop.turn(9)
        assert not link.is_over
    loop.turn()
    assert (link.is_over, link.missing, link.delivered, link.refused) == (True, 1, False, {"ahead": 1})
    assert notices.lines == ["link failed: timed out", "link connected", "link refused: {'ahead': 1}"]
    assert len(loop.driver) == 0
    assert link.fileno() == -1


def test_data_of_a_peer_before_the_end_is_no_answer(loop: Loop, store: Store, link: Link) -> None:
    store.listen()
    loop.update(link)
    with store.accept() as connection:
        connection.sendall(stream.encode_refused({"ahead": 1}))
        put(link, 0)
        link.finish(b"end")
        loop.update(link)
        received(connection)
    loop.turn()
    assert (link.delivered, link.refused) == (True, {})


def test_a_peer_that_never_stops_sending_costs_no_memory(loop: Loop, store: Store, link: Link) -> None:
    store.listen()
    link.finish(b"end")
    loop.update(link)
    with store.accept() as connection:
        received(connection)
        for _ in range(200):
            connection.send(bytes(50_000))
            loop.turn()
        assert len(link._answer) < 10_000
    loop.turn()
    assert link.delivered


def test_a_link_waits_for_a_full_queue_silently(
    loop: Loop, store: Store, links: list[Link], notices: RecordedNotices
) -> None:
    """As after a restart of the store, when a thousand links reconnect at once."""
    store.listen(queue=2)
    for number in range(40):
        links.append(Link(store.address, f"link {number}", notices=notices))
        links[-1].begin(head(str(number)))
        links[-1].finish(b"end")
        loop.update(links[-1])
    assert sum(link.state is State.CALLING for link in links) > 30
    got = set()
    for _ in range(1000):
        loop.turn(0.05)
        try:
            connection = store.accept()
        except BlockingIOError:
            continue
        got.add(received(connection))
        connection.close()
    loop.turn()
    assert got == {head(str(number)) + b"end" for number in range(40)}
    assert all(link.delivered for link in links)
    assert notices.lines == []


def test_the_longer_a_queue_is_full_the_less_often_it_is_tried(
    loop: Loop, store: Store, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    call = Link._call

    def counted(link: Link, now: float) -> None:
        calls.append(now)
        call(link, now)

    monkeypatch.setattr(Link, "_call", counted)
    store.listen(queue=0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(store.path))
        loop.update(link)
        while link.state is State.CALLING:
            loop.turn(loop.driver.timeout(loop.now))
    assert 10 < len(calls) < 20
    assert calls[-1] - calls[0] >= 10


def test_a_queue_that_stays_full_is_a_failed_attempt(
    loop: Loop, store: Store, link: Link, notices: RecordedNotices
) -> None:
    store.listen(queue=0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(store.path))
        loop.update(link)
        for _ in range(9):
            loop.turn(1)
        assert notices.lines == []
        loop.turn(5)
        assert notices.lines == ["link failed: Resource temporarily unavailable"]


def test_a_closed_link_counts_missing_ticks(loop: Loop, store: Store, link: Link) -> None:
    store.listen()
    loop.update(link)
    put(link, 0, 1)
    loop.update(link)
    for _ in range(2):
        link.close()
        loop.update(link)
    loop.turn(60)
    assert (link.is_over, link.missing, link.delivered) == (True, 2, False)
    assert len(loop.driver) == 0
    with store.accept() as connection:
        assert connection.recv(100) == head() + ticks(0, 2)
        assert connection.recv(100) == b""


class Scripted(TcpAddress):
    """The results of resolving a name, one after another; the last one repeats."""

    def __init__(self, *answers: list[Candidate] | OSError | None) -> None:
        super().__init__("scripted", 9400)
        self.answers = list(answers)

    def candidates(self, _now: float, /) -> list[Candidate] | None:
        answer = self.answers[0]
        if len(self.answers) > 1:
            del self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def test_a_link_waits_for_a_name_and_tries_its_addresses_in_turn(
    loop: Loop, links: list[Link], notices: RecordedNotices
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        answer: list[Candidate] = [(socket.AF_INET, one.getsockname()) for one in (closed, listener)]
        where = Scripted(socket.gaierror(socket.EAI_AGAIN, "Try again later"), None, None, answer)
        links.append(link := Link(where, "link", notices=notices))
        link.begin(head())
        link.finish(b"end")
        loop.update(link)
        assert notices.lines == ["link failed: Try again later"]
        states = []
        for seconds in (0.5, 0.02):
            loop.turn(seconds)
            states.append(link.state)
        assert states == [State.LOOKING_UP] * 2
        listener.settimeout(PATIENCE_S)
        while link.state is not State.CLOSING:  # the kernel needs time to connect, even to this machine
            loop.turn(0.02)
        accepted, _ = listener.accept()
        with accepted:
            accepted.setblocking(False)
            while (got := accepted.recv(100, socket.MSG_PEEK)) != head() + b"end":
                assert got
            received(accepted)
        while not link.is_over:
            loop.turn()
    assert link.delivered
    assert notices.lines[1:] == ["link connected"]


def test_after_an_address_without_an_answer_the_next_is_tried(
    store: Store, links: list[Link], notices: RecordedNotices, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.listen()
    silent = (socket.AF_INET, ("127.0.0.1", 9))
    monkeypatch.setattr(socket, "socket", Silent)
    links.append(link := Link(Scripted([silent, (socket.AF_UNIX, str(store.path))]), "link", notices=notices))
    link.begin(head())
    for now, state in ((0.0, State.CONNECTING), (9.9, State.CONNECTING), (10.1, State.CALLING)):
        link.on_time(now)
        assert link.state is state
    assert link.fileno() == -1  # a call that closes a descriptor opens none, which could have its number
    link.on_time(link.deadline)
    assert link.state is State.SENDING
    assert notices.lines == []


class Silent(socket.socket):
    """Over TCP it waits for an answer for ever."""

    def connect_ex(self, where: tuple[Any, ...] | str | ReadableBuffer, /) -> int:
        return errno.EINPROGRESS if self.family == socket.AF_INET else super().connect_ex(where)


def test_a_name_is_resolved_in_a_thread_and_once_for_all_links(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up, may_answer = socket.getaddrinfo, threading.Event()
    asked: list[str] = []

    def slow(host: str, port: int, **options: int) -> object:
        if options.get("flags"):
            return look_up(host, port, **options)
        asked.append(host)
        assert may_answer.wait(PATIENCE_S)
        return look_up("127.0.0.1", port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    where = TcpAddress("store.example", 9400)
    assert [where.candidates(10.0) for _ in range(5)] == [None] * 5
    may_answer.set()
    thread = where._thread
    assert thread is not None
    thread.join(PATIENCE_S)
    expected = [(socket.AF_INET, ("127.0.0.1", 9400))]
    assert [where.candidates(11.0), where.candidates(12.9)] == [expected] * 2
    assert asked == ["store.example"]
    may_answer.clear()
    assert where.candidates(13.1) is None  # a name may move
    may_answer.set()
    thread = where._thread
    assert thread is not None
    thread.join(PATIENCE_S)
    assert len(asked) == 2


def test_a_name_that_does_not_exist_is_an_error_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    where = TcpAddress("store.example", 9400)
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="Name or service not known"):
            while where.candidates(10.0) is None:
                assert where._thread is not None
                where._thread.join(PATIENCE_S)


def test_a_numeric_address_needs_no_thread() -> None:
    assert TcpAddress("::1", 9400).candidates(0.0) == [(socket.AF_INET6, ("::1", 9400, 0, 0))]
    assert TcpAddress("127.0.0.1", 9400).candidates(0.0) == [(socket.AF_INET, ("127.0.0.1", 9400))]
