"""HTTP's odd cases, with raw sockets: interim and damaged answers, hanging peers, proxies, moved names."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

import pytest

from devtools.receivers.receiver import Receiver
from rondo_tools.push.http.credentials import parse_credentials
from rondo_tools.push.http.transport import Transport
from rondo_tools.push.model import Answer, Outcome
from tests.support.fixtures import ProcessOptions, Run, Start
from tests.support.push.raw_server import Peer, RawServer
from tests.support.push.receivers import expected, fill, header, seconds

ROOT = Path(__file__).resolve().parents[2]
NOW = int(time.time()) * 1000
BODY = b"body" * 100
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "vmm_metrics"
    fill(path, header(start_ms=NOW - 60_000), seconds(20, NOW - 60_000), "poweroff")
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start rondo-push; processes that still run at the end of the test are killed."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str | Path, **options: Unpack[ProcessOptions]) -> subprocess.Popen[bytes]:
        settings: ProcessOptions = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, ROOT / "bin" / "rondo-push", *arguments]
        running.append(subprocess.Popen(command, **settings))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture
def name(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """An environment in which the given Python lines are the body of `getaddrinfo`."""

    def environment(lines: str) -> dict[str, str]:
        folder = tmp_path / "resolver"
        folder.mkdir()
        body = "\n    ".join(lines.splitlines())
        (folder / "sitecustomize.py").write_text(
            f"import socket, threading\n"
            f"STREAM = socket.AF_INET, socket.SOCK_STREAM, 6, ''\n"
            f"def getaddrinfo(host, port, *_, **__):\n    {body}\n"
            f"socket.getaddrinfo = getaddrinfo\n"
        )
        return {**os.environ, "PYTHONPATH": str(folder)}

    return environment


def send(url: str, timeout_s: float = 5.0, body: bytes = BODY, proxy: str | None = None) -> Answer:
    known = parse_credentials(proxy=proxy)
    with contextlib.closing(Transport(url, timeout_s=timeout_s, credentials=known)) as transport:
        return transport.send(body)


def always(answer: bytes) -> Callable[[Peer], None]:
    """Send this answer to each request of a connection, and leave it open."""

    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(answer)

    return handle


class Endpoint:
    """Accepts samples like Prometheus, and sends `interim` before each answer. Until it is `healed`, it
    answers BUSY to all requests but the first."""

    def __init__(self, interim: bytes) -> None:
        self.receiver = Receiver()
        self.interim = interim
        self.healed = False

    def __call__(self, peer: Peer) -> None:
        while (body := peer.request()) is not None:
            is_taken = self.healed or not self.receiver.requests
            if is_taken:
                assert self.receiver.take(body) is None
            for byte in self.interim:
                peer.send(bytes([byte]))
            peer.send(OK if is_taken else BUSY)


# Interim answers


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n",
        b"HTTP/1.1 199 \r\n\r\n" + b"HTTP/1.1 102 Processing\r\nA: b\r\n\r\n" * 5,
    ],
)
def test_interim_answers_are_skipped(run: Run, store: Path, interim: bytes) -> None:
    endpoint = Endpoint(interim)
    with RawServer(endpoint) as server:
        flags: list[str | Path] = [store, "--remote-write", server.url]
        flags += ["--max-samples-per-send", "10", "--no-health"]
        assert run("rondo-push", *flags).returncode == 75
        endpoint.healed = True
        done = run("rondo-push", *flags, "-v")
    assert (done.returncode, b" 0 rejected, 0 unclear" in done.stderr) == (0, True)
    assert endpoint.receiver.samples == expected(store)


def test_endless_interim_answers_end_at_the_deadline() -> None:
    def handle(peer: Peer) -> None:
        peer.request()
        peer.trickle(b"HTTP/1.1 102 Processing\r\n\r\n")

    with RawServer(handle) as server:
        answer = send(server.url, timeout_s=1)
    assert (answer.outcome, answer.unclear, answer.status) == (Outcome.RETRY, True, 0)


def test_101_is_not_delivered() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    with RawServer(always(switch)) as server:
        answer = send(server.url)
    assert (answer.outcome, answer.unclear, answer.status) == (Outcome.RETRY, True, 101)


# Damaged answers, and bytes after an answer


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (OK, True),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (OK + OK, False),
        (OK + b"H", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nno length, no end", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", False),
        (b"HTTP/1.1 204 No Content\r\n" + b"A: b\r\n" * 150 + b"\r\n", False),
        (b"HTTP/1.1 204 No Content\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\nwithout a colon\r\n\r\n", False),
    ],
)
def test_a_2xx_is_accepted_and_its_connection_kept_only_if_it_was_complete(
    answer: bytes, is_kept: bool
) -> None:
    with RawServer(always(answer)) as server:
        with contextlib.closing(Transport(server.url, timeout_s=10)) as transport:
            for _ in range(3):
                assert transport.send(BODY).outcome is Outcome.ACCEPTED
        assert server.connections == (1 if is_kept else 3)


@pytest.mark.parametrize("status", [101, 301, 400, 404, 413, 429, 503, 999])
def test_any_other_answer_closes_the_connection(status: int) -> None:
    with RawServer(always(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)) as server:
        with contextlib.closing(Transport(server.url, timeout_s=10)) as transport:
            assert [transport.send(BODY).status for _ in range(3)] == [status] * 3
        assert server.connections == 3


def test_unexpected_bytes_close_the_connection() -> None:
    """They follow a complete answer, and must not be taken for the next request's answer."""

    def handle(peer: Peer) -> None:
        assert peer.request() is not None
        peer.send(OK)
        if peer.number == 1:
            arrived.wait(10)
            peer.send(OK)
            sent.set()
        peer.request()
        peer.send(BUSY)

    arrived, sent = threading.Event(), threading.Event()
    with RawServer(handle) as server, contextlib.closing(Transport(server.url, timeout_s=10)) as transport:
        assert transport.send(BODY).outcome is Outcome.ACCEPTED
        arrived.set()
        assert sent.wait(10)
        assert transport.send(BODY).status == 204
        assert server.connections == 2


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 99\r\n\r\nno",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Content-Length: 2\r\nContent-Length: 5\r\n\r\nno",
        b"A: b\r\n" * 150 + b"\r\n",
    ],
)
@pytest.mark.parametrize(
    ("status", "outcome"), [(400, Outcome.REFUSED), (403, Outcome.DENIED), (503, Outcome.RETRY)]
)
def test_a_received_status_is_final(rest: bytes, status: int, outcome: Outcome) -> None:
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 %d X\r\n" % status + rest)

    with RawServer(handle) as server:
        answer = send(server.url)
    assert (answer.outcome, answer.status) == (outcome, status)


# The deadline


def test_a_resolver_that_hangs(
    run: Run, store: Path, name: Callable[[str], dict[str, str]], start: Start
) -> None:
    env = name("threading.Event().wait()")
    flags: list[str | Path] = [store, "--remote-write", "http://endpoint.example/write", "--timeout", "1s"]
    done = run("rondo-push", *flags, env=env)
    assert (done.returncode, b"no connection within 1 s" in done.stderr) == (75, True)


def test_a_thousand_addresses_that_do_not_answer(
    run: Run, store: Path, name: Callable[[str], dict[str, str]]
) -> None:
    """They share the time; alone, each would use all of it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        for _ in range(4):  # more than its queue holds: later connections get no answer
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        env = name(f"return [(*STREAM, {full.getsockname()!r})] * 1000")
        done = run(
            "rondo-push", store, "--remote-write", "http://endpoint.example/", "--timeout", "1s", env=env
        )
    assert (done.returncode, b"no connection within 1 s" in done.stderr) == (75, True)


def test_the_next_address_is_tried_while_there_is_time(
    run: Run, store: Path, name: Callable[[str], dict[str, str]]
) -> None:
    endpoint = Endpoint(b"")
    endpoint.healed = True
    with (
        RawServer(endpoint) as server,
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        contextlib.ExitStack() as waiting,
    ):
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        env = name(f"return [(*STREAM, {full.getsockname()!r}), (*STREAM, ('127.0.0.1', {server.port}))]")
        flags: list[str | Path] = [store, "--remote-write", "http://endpoint.example/write"]
        flags += ["--timeout", "6s"]
        assert run("rondo-push", *flags, env=env).returncode == 0
    assert endpoint.receiver.samples == expected(store)


def silent(peer: Peer) -> None:
    peer.over.wait()


def trickling(data: bytes) -> Callable[[Peer], None]:
    def handle(peer: Peer) -> None:
        peer.head()
        peer.trickle(data)

    return handle


def test_a_proxy_that_trickles(run: Run, store: Path) -> None:
    with RawServer(trickling(b"HTTP/1.1 200 " + b"established " * 50)) as server:
        proxy = ["--proxy", f"http://127.0.0.1:{server.port}", "--timeout", "1s"]
        done = run("rondo-push", store, "--remote-write", "https://endpoint.example/write", *proxy)
    assert (done.returncode, b"no connection within 1 s" in done.stderr) == (75, True)


@pytest.mark.parametrize("handle", [silent, lambda peer: peer.trickle(b"\x16\x03\x03\x40\x00" + bytes(1000))])
def test_a_handshake_that_does_not_end_is_clear(handle: Callable[[Peer], None]) -> None:
    with RawServer(handle) as server:
        answer = send(server.url.replace("http:", "https:"), timeout_s=1)
    assert (answer.outcome, answer.unclear) == (Outcome.RETRY, False)
    assert "no connection within 1 s" in answer.text


def test_a_peer_that_never_reads() -> None:
    with RawServer(silent) as server:
        answer = send(server.url, timeout_s=1, body=bytes(64 << 20))
    assert (answer.outcome, answer.unclear) == (Outcome.RETRY, True)


@pytest.mark.parametrize(
    ("begun", "outcome"),
    [
        (b"", Outcome.RETRY),
        (b"HTTP/1.1 307 X\r\nLocation: /there\r\n", Outcome.RETRY),
        (b"HTTP/1.1 204 X\r\n", Outcome.ACCEPTED),
        (b"HTTP/1.1 200 X\r\n\r\n", Outcome.ACCEPTED),
        (b"HTTP/1.1 400 X\r\n\r\n", Outcome.REFUSED),
        (b"HTTP/1.1 403 X\r\nContent-Length: 99999\r\n\r\n", Outcome.DENIED),
        (b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", Outcome.RETRY),
    ],
)
def test_an_answer_that_trickles(begun: bytes, outcome: Outcome) -> None:
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(begun)
        peer.trickle(b"A: b\r\n")

    with RawServer(handle) as server:
        assert send(server.url, timeout_s=1).outcome is outcome


def test_a_stopped_daemon_does_not_try_a_hanging_peer_again(start: Start, store: Path) -> None:
    requests: list[bytes] = []
    asked = threading.Event()

    def handle(peer: Peer) -> None:
        while (body := peer.request()) is not None:
            requests.append(body)
            asked.set()

    with RawServer(handle) as server:
        flags = ["--interval", "1h", "--timeout", "3s"]
        process = start(store, "--remote-write", server.url, *flags)
        assert asked.wait(60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert len(requests) == 1


def test_a_daemon_whose_resolver_hangs_can_be_stopped(
    start: Start, store: Path, name: Callable[[str], dict[str, str]]
) -> None:
    flags = ["--interval", "1h", "--timeout", "1s", "-v"]
    env = name("threading.Event().wait()")
    process = start(store, "--remote-write", "http://endpoint.example/", *flags, env=env)
    assert process.stderr is not None
    assert b"no connection within 1 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


# Requests that may have been accepted


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Outcome.RETRY),
        (b"HTTP/1.1 429 Slow Down\r\n\r\n", Outcome.RETRY),
        (b"HTTP/1.1 407 Who Are You\r\n\r\n", Outcome.DENIED),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Outcome.DENIED),
        (b"HTTP/1.1 400 Bad\r\n\r\n", Outcome.DENIED),
        (b"HTTP/1.1 413 Too Large\r\n\r\n", Outcome.DENIED),
        (b"HTTP/1.1 302 There\r\nLocation: http://login.example/\r\n\r\n", Outcome.DENIED),
        (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n", Outcome.RETRY),
        (b"HTTP/1.1 200 Connected\r\n\r\n", Outcome.RETRY),  # but no TLS follows
        (b"SSH-2.0-x\r\n", Outcome.RETRY),
        (b"", Outcome.RETRY),
    ],
)
def test_a_request_blocked_by_a_proxy_was_not_accepted(answer: bytes, outcome: Outcome) -> None:
    def handle(peer: Peer) -> None:
        peer.head()
        peer.send(answer)

    with RawServer(handle) as server:
        proxy = server.url.removesuffix("/write")
        result = send("https://endpoint.example/write", proxy=proxy)
    assert (result.outcome, result.unclear, result.status) == (outcome, False, 0)
    status = answer[9:12].decode()
    assert outcome is Outcome.RETRY or f"proxy answered {status}" in result.text


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/write", "https://no-such-host.invalid/write"])
def test_an_unknown_name_is_clear(url: str) -> None:
    answer = send(url)
    assert (answer.outcome, answer.unclear) == (Outcome.RETRY, False)


def test_the_thread_that_resolves_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 gives a thread's name to the system, and starts no thread whose name is not text."""
    names = []

    def getaddrinfo(*_: object, **__: object) -> None:
        names.append(threading.current_thread().name)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    send("http://endpoint.example/write")
    assert names == ["resolver"]


# A name that moves


def test_a_name_that_moves_is_resolved_again(
    start: Start, store: Path, tmp_path: Path, name: Callable[[str], dict[str, str]]
) -> None:
    """The old address stays up, and answers 503 for ever on its open connection."""
    receiver = Receiver()

    def take(peer: Peer, answer: bytes) -> None:
        while (body := peer.request()) is not None:
            if answer == OK:
                assert receiver.take(body) is None
            peer.send(answer)

    with RawServer(lambda peer: take(peer, BUSY)) as old, RawServer(lambda peer: take(peer, OK)) as new:
        where = tmp_path / "port"
        where.write_text(str(old.port))
        env = name(f"return [(*STREAM, ('127.0.0.1', int(open({str(where)!r}).read())))]")
        flags = ["--remote-write", "http://endpoint.example/write", "--interval", "100ms"]
        process = start(store, *flags, env=env)
        assert process.stderr is not None
        assert b"503" in process.stderr.readline()
        where.write_text(str(new.port))
        assert b"delivering again" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert receiver.samples.items() >= expected(store).items()


# The log of a daemon


@pytest.mark.parametrize("status", [403, 412, 431, 499])
def test_a_daemon_logs_a_denial_once_and_tries_again(start: Start, store: Path, status: int) -> None:
    receiver = Receiver()
    denied: list[bytes] = []

    def handle(peer: Peer) -> None:
        while (body := peer.request()) is not None:
            if len(denied) < 5:
                denied.append(body)
                peer.send(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
            else:
                assert receiver.take(body) is None
                peer.send(OK)

    with RawServer(handle) as server:
        process = start(store, "--remote-write", server.url, "--interval", "50ms", "--no-health")
        assert process.stderr is not None
        assert f"not delivered for now: {server.url} answered {status}".encode() in process.stderr.readline()
        assert b"delivering again" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert receiver.samples == expected(store)
