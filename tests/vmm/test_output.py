"""Where ticks go: in order, bounded, and on a socket until they are acknowledged."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rondo_tools.errors import UsageError
from rondo_tools.producer import pipe as pipe_module
from rondo_tools.producer.address import TcpAddress, UnixAddress
from rondo_tools.producer.destination import address, open_output
from rondo_tools.producer.link import Link
from rondo_tools.producer.pipe import Pipe
from rondo_tools.vmm.console import open_console
from rondo_tools.vmm.output import NOTICES, OutputThread
from tests.support.needs import PATIENCE_S


def tick(number: int) -> bytes:
    return b"tick %03d;" % number


def ticks(first: int, last: int) -> bytes:
    """The ticks from `first` up to, but without, `last`."""
    return b"".join(tick(number) for number in range(first, last))


def thread_to(spec: str) -> OutputThread:
    return OutputThread(open_output(spec))


def link(address: str | tuple[str, int], name: str, *, limit: int = 600) -> OutputThread:
    where = UnixAddress(address) if isinstance(address, str) else TcpAddress(*address)
    return OutputThread(Link(where, name, limit=limit))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        with suppress(OSError):
            os.close(fd)


def read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def test_a_pipe_gets_header_ticks_and_end_in_order(pipe: tuple[int, int]) -> None:
    output = OutputThread(Pipe(pipe[1], "pipe", notices=NOTICES))
    output.start(b"header;")
    for number in range(50):
        output.put(tick(number))
    output.finish(b"end")
    assert read_all(pipe[0]) == b"header;" + ticks(0, 50) + b"end"
    assert output.wait(PATIENCE_S)
    assert output.delivered
    assert output.missing == 0


def test_a_nonblocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    output = OutputThread(Pipe(pipe[1], "pipe", notices=NOTICES))
    output.start(b"h" * 200_000)  # more than a pipe holds
    output.finish(b"end")
    assert read_all(pipe[0]) == b"h" * 200_000 + b"end"
    assert output.wait(PATIENCE_S)


def test_a_stalled_reader_loses_the_oldest_and_delays_nobody(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    output = OutputThread(Pipe(pipe[1], "pipe", limit=10, notices=NOTICES))
    output.start(b"h" * 100_000)  # fills the pipe: nothing behind it is written
    for number in range(100):
        output.put(tick(number))
    output.finish(b"end")
    assert not output.wait(0)
    assert output.missing == 100
    assert caplog.text.count("does not keep up") == 1
    assert read_all(pipe[0]) == b"h" * 100_000 + ticks(90, 100) + b"end"
    assert output.wait(PATIENCE_S)
    assert not output.delivered
    assert output.missing == 90


def test_a_reader_that_is_gone_is_logged_once_and_ends_the_output(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    os.close(pipe[0])
    woken = threading.Event()
    output = OutputThread(Pipe(pipe[1], "pipe", notices=NOTICES))
    output.start(b"header", woken.set)
    assert woken.wait(PATIENCE_S)
    assert output.gone
    for number in range(3):
        output.put(tick(number))
    output.finish(b"end")
    assert output.missing == 3
    assert caplog.text.count("the reader of pipe is gone") == 1


def test_a_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"what was there before, and longer than what comes")
    output = thread_to(str(path))
    output.start(b"header;")
    output.put(tick(1))
    output.finish(b"end")
    assert output.wait(PATIENCE_S)
    assert path.read_bytes() == b"header;tick 001;end"
    assert output.delivered


def test_a_named_pipe_waits_for_its_reader_without_delay(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    output = thread_to(str(path))
    output.start(b"header;")
    output.put(tick(1))
    output.finish(b"end")
    assert path.read_bytes() == b"header;tick 001;end"
    assert output.wait(PATIENCE_S)


def test_a_write_to_a_full_disk_is_retried_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[int | OSError] = [3, OSError(28, "No space left on device"), OSError(28, "again")]
    write = os.write

    def full_for_a_while(fd: int, data: bytes) -> int:
        answer = answers.pop(0) if answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        return write(fd, data[:answer])

    monkeypatch.setattr(pipe_module, "RETRY_S", 0.0)
    output = thread_to(str(tmp_path / "stream"))
    monkeypatch.setattr("rondo_tools.producer.pipe.os.write", full_for_a_while)
    output.start(b"header;")
    output.put(tick(1))
    output.finish(b"end")
    assert output.wait(PATIENCE_S)
    assert (tmp_path / "stream").read_bytes() == b"header;tick 001;end"
    assert caplog.text.count("No space left on device; trying again") == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unix:", "a socket's path has 1 to 107 bytes"),
        ("unix:/" + "x" * 107, "a socket's path has 1 to 107 bytes"),
        ("tcp:9400", "write tcp:HOST:PORT"),
        ("tcp:host:port", "write tcp:HOST:PORT"),
        ("tcp:host:65536", "write tcp:HOST:PORT"),
        ("/nowhere/stream", "--output /nowhere/stream: No such file"),
        ("/", "--output /: Is a directory"),
        ("", "--output : No such file"),
    ],
)
def test_an_invalid_destination_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_output(spec)


def test_an_ipv6_address_keeps_its_colons() -> None:
    where = address("tcp:[::1]:9400")
    assert isinstance(where, TcpAddress)
    assert (where.host, where.port) == ("::1", 9400)


def test_the_console_may_be_discarded_or_a_file(tmp_path: Path) -> None:
    assert open_console("none") is None
    console = open_console(str(tmp_path / "console"))
    assert console is not None
    console.start(b"")
    console.put(b"phase: cpu\n")
    console.finish()
    assert console.wait(PATIENCE_S)
    assert (tmp_path / "console").read_bytes() == b"phase: cpu\n"
    with pytest.raises(UsageError, match="--serial /nowhere/console"):
        open_console("/nowhere/console")


class Peer:
    """A listener, Unix or TCP, in place of the store: it accepts, reads, and closes on request."""

    def __init__(self, family: int, address: str | tuple[str, int]) -> None:
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address)
        self.listener.listen()
        self.listener.settimeout(PATIENCE_S)
        self.address = self.listener.getsockname()

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE_S)
        return connection

    def close(self) -> None:
        self.listener.close()


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def receive_all(connection: socket.socket) -> bytes:
    return receive(connection, 1 << 20)


@pytest.fixture(params=["unix", "tcp"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    if request.param == "unix":
        peer = Peer(socket.AF_UNIX, str(tmp_path / "socket"))
    else:
        peer = Peer(socket.AF_INET, ("127.0.0.1", 0))
    yield peer
    peer.close()


def start(output: OutputThread, *numbers: int) -> None:
    output.start(b"header;")
    for number in numbers:
        output.put(tick(number))


def test_a_close_after_the_end_is_the_acknowledgement(peer: Peer) -> None:
    output = link(peer.address, "peer")
    start(output, 0, 1)
    with peer.accept() as connection:
        output.finish(b"end")
        assert receive_all(connection) == b"header;" + ticks(0, 2) + b"end"
        assert not output.wait(0.05)  # not before the peer closes
        assert output.missing == 2
    assert output.wait(PATIENCE_S)
    assert output.delivered
    assert output.missing == 0


def test_a_close_before_the_end_is_no_acknowledgement(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output = link(peer.address, "peer")
    start(output, 0, 1)
    with peer.accept() as connection:
        assert receive(connection, 25) == b"header;" + ticks(0, 2)
    output.put(tick(2))
    output.finish(b"end")
    with peer.accept() as connection:
        assert receive_all(connection) == b"header;" + ticks(0, 3) + b"end"
    assert output.wait(PATIENCE_S)
    assert output.delivered
    assert caplog.text.count("trying again") == 1
    assert "peer: connected" in caplog.text


def test_a_close_found_at_the_end_is_no_acknowledgement(peer: Peer) -> None:
    output = link(peer.address, "peer")
    start(output, 0)
    with peer.accept() as connection:
        assert receive(connection, 16) == b"header;" + ticks(0, 1)
    output.finish(b"")  # nothing is sent any more that could fail
    with peer.accept() as connection:
        assert receive_all(connection) == b"header;" + ticks(0, 1)
    assert output.wait(PATIENCE_S)
    assert output.delivered


def test_a_connection_reset_is_no_acknowledgement(peer: Peer) -> None:
    output = link(peer.address, "peer")
    start(output, 0)
    output.finish(b"end")
    with peer.accept() as connection:
        receive(connection, 7)  # what is left unread makes a reset of the close
    with peer.accept() as connection:
        assert receive_all(connection) == b"header;" + ticks(0, 1) + b"end"
    assert output.wait(PATIENCE_S)
    assert output.delivered


def test_a_peer_that_listens_later_misses_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    output = link(path, "peer")
    start(output, 0, 1, 2)
    late = Peer(socket.AF_UNIX, path)
    with late.accept() as connection:
        assert receive(connection, 34) == b"header;" + ticks(0, 3)
        output.finish(b"end")
        assert receive_all(connection) == b"end"
    assert output.wait(PATIENCE_S)
    late.close()


def test_beyond_the_backlog_the_oldest_are_lost_and_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    output = link(path, "peer", limit=10)
    start(output, *range(25))
    late = Peer(socket.AF_UNIX, path)
    output.finish(b"end")
    with late.accept() as connection:
        assert receive_all(connection) == b"header;" + ticks(15, 25) + b"end"
    assert output.wait(PATIENCE_S)
    assert not output.delivered
    assert output.missing == 15
    late.close()


def test_data_from_a_peer_is_ignored(peer: Peer) -> None:
    output = link(peer.address, "peer")
    start(output, 0)
    with peer.accept() as connection:
        connection.sendall(b"hello?" * 100)
        output.put(tick(1))
        output.finish(b"end")
        assert receive_all(connection) == b"header;" + ticks(0, 2) + b"end"
    assert output.wait(PATIENCE_S)
    assert output.delivered
