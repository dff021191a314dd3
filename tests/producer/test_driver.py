"""One loop that drives many outputs: sockets, pipes, and files that epoll does not accept."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from rondo_tools.producer.driver import Driver
from rondo_tools.producer.link import Link
from rondo_tools.producer.pipe import Pipe
from tests.support.producer.peers import Loop, RecordedNotices, Store, head, received, tick, ticks


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "sock")
    yield store
    store.close()


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


def test_hundreds_of_links_survive_a_restart_of_the_store(loop: Loop, store: Store) -> None:
    """Descriptors are reused at once, by other links: each continues with its own."""
    notices, count = RecordedNotices(), 300  # descriptors, both ends: fewer than 1,024
    links = [Link(store.address, f"vm {number}", notices=notices) for number in range(count)]
    store.listen(queue=count)
    for number, link in enumerate(links):
        link.begin(head(str(number)))
        link.put(tick(0))
        loop.update(link)
    connections = [store.accept() for _ in links]
    assert {received(one) for one in connections} == {head(str(n)) + tick(0) for n in range(count)}
    for one in connections[: count // 2]:
        one.close()
    for link in links[::2]:
        link.put(tick(1))
        loop.update(link)
    for one in connections[count // 2 :]:
        one.close()
    loop.turn()
    assert {link.fileno() for link in links} == {-1}
    assert not any(loop.driver.dispatch(fd, select.EPOLLIN, loop.now) for fd in range(1024))
    for link in links:
        if not link.backlog.count - 1:
            link.put(tick(1))
        link.finish(b"end")
        loop.update(link)
    loop.turn(0.5)
    got = []
    for _ in links:
        with store.accept() as connection:
            got.append(received(connection))
    loop.turn()
    assert sorted(got) == sorted(head(str(n)) + ticks(0, 2) + b"end" for n in range(count))
    assert all(link.delivered for link in links)
    assert len(loop.driver) == 0
    assert loop.driver.timeout(loop.now) == -1


def test_a_pipe_is_watched_only_while_there_is_something_to_write(loop: Loop, ends: tuple[int, int]) -> None:
    output = Pipe(ends[1], "pipe")
    output.begin(b"header;")
    loop.update(output)
    loop.turn()
    assert os.read(ends[0], 100) == b"header;"
    for number in range(600):
        output.put(b"%1000d;" % number)
        loop.update(output)
    loop.turn()
    got = b""
    while output.wants_write:  # the loop has not blocked
        got += os.read(ends[0], 1 << 16)
        loop.turn()
    assert got
    output.finish(b"end")
    loop.update(output)
    loop.turn()
    assert output.delivered
    assert got + os.read(ends[0], 1 << 20) == b"".join(b"%1000d;" % n for n in range(600)) + b"end"


def test_a_reader_that_leaves_ends_the_output_at_the_next_tick(loop: Loop, ends: tuple[int, int]) -> None:
    notices = RecordedNotices()
    output = Pipe(ends[1], "pipe", notices=notices)
    output.begin(b"header;")
    loop.update(output)
    loop.turn()
    os.close(ends[0])
    loop.turn()
    assert not output.gone
    output.put(tick(0))
    loop.update(output)
    loop.turn()
    assert (output.gone, output.is_over, output.missing) == (True, True, 1)
    assert notices.lines == ["pipe gone: Broken pipe"]
    assert len(loop.driver) == 0


def test_a_file_is_written_although_epoll_does_not_accept_it(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    output = Pipe(os.open(path, os.O_WRONLY | os.O_CREAT), "stream")
    output.begin(head())
    for number in range(5):
        output.put(tick(number))
    loop.update(output)
    assert loop.driver.timeout(loop.now) == 0
    loop.turn()
    assert path.read_bytes() == head() + ticks(0, 5)
    assert loop.driver.timeout(loop.now) == -1
    output.finish(b"end")
    loop.update(output)
    loop.turn()
    assert path.read_bytes() == head() + ticks(0, 5) + b"end"
    assert output.delivered


def test_a_full_disk_is_tried_again_every_second(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stream"
    answers: list[int | OSError] = [3, OSError(28, "No space left on device"), OSError(28, "again")]

    def write(fd: int, data: bytes) -> int:
        answer = answers.pop(0) if answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        return os.writev(fd, [data[:answer]])

    monkeypatch.setattr(os, "write", write)
    output = Pipe(os.open(path, os.O_WRONLY | os.O_CREAT), "stream")
    output.begin(head())
    loop.update(output)
    loop.turn()
    for _ in range(2):
        assert path.read_bytes() == head()[:3]
        assert loop.driver.timeout(loop.now) == pytest.approx(1)
        output.put(tick(0))  # a new tick does not cause an early attempt
        loop.update(output)
        loop.turn(0.5)
        assert path.read_bytes() == head()[:3]
        loop.turn(0.5)
    assert path.read_bytes() == head() + tick(0) * 2
    output.close()
    loop.update(output)
    assert len(loop.driver) == 0


def test_a_named_pipe_is_opened_when_there_is_a_reader(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    output = Pipe(-1, "fifo", fifo=str(path))
    output.begin(head())
    loop.update(output)
    loop.turn(5)
    assert output.fileno() == -1
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    loop.turn(0.1)
    assert os.read(reader, 100) == head()
    output.close()
    loop.update(output)
    assert len(loop.driver) == 0
    os.close(reader)


def test_descriptors_of_no_output_are_not_handled(ends: tuple[int, int]) -> None:
    with select.epoll() as epoll:
        driver = Driver(epoll)
        epoll.register(ends[1], select.EPOLLOUT)
        ((fd, events),) = epoll.poll()
        assert not driver.dispatch(fd, events, 0.0)


def test_a_poll_object_works_as_well(ends: tuple[int, int]) -> None:
    poll = select.poll()
    driver = Driver(poll)
    output = Pipe(ends[1], "pipe")
    output.begin(head())
    driver.update(output, 0.0)
    ((fd, events),) = poll.poll()
    assert driver.dispatch(fd, events, 0.0)
    assert os.read(ends[0], 100) == head()
    assert poll.poll(0) == []
    output.put(tick(0))
    driver.update(output, 0.0)
    assert poll.poll(0)
    for _ in range(2):
        driver.remove(output)
        assert len(driver) == 0
        assert poll.poll(0) == []
        output.close()
