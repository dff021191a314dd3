"""One scrape over real sockets: exporters that answer well, badly or not at all."""

from __future__ import annotations

import gzip
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rondo_tools.errors import UsageError
from rondo_tools.feed import scrape
from rondo_tools.feed.scrape import Scraped, Scraper
from rondo_tools.feed.target import Target
from tests.support.needs import PATIENCE_S, must_have

PAGE = b"x 1\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nx 1\n"

Serve = Callable[[socket.socket, bytes], None]


class Exporter:
    """Answers each request by a function; `requests` are their bytes, by connection."""

    def __init__(self, serve: Serve, tls: ssl.SSLContext | None = None) -> None:
        self._serve, self._tls = serve, tls
        self.requests: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://localhost:{self.port}/metrics?a=b"

    def _run(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._answer, args=[connection], daemon=True).start()
        except OSError:
            pass  # it was closed

    def _answer(self, connection: socket.socket) -> None:
        requests: list[bytes] = []
        self.requests.append(requests)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                while request := self._request(connection):
                    requests.append(request)
                    self._serve(connection, request)
        except (OSError, StopIteration):
            pass  # the scraper is gone, or the test closes the connection

    @staticmethod
    def _request(connection: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            piece = connection.recv(4096)
            if not piece:
                return b""
            data += piece
        return data

    def close(self) -> None:
        for one in (self._listener, *self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
        self._thread.join(PATIENCE_S)


@contextmanager
def exporter(serve: Serve | bytes, tls: ssl.SSLContext | None = None) -> Iterator[Exporter]:
    def send(connection: socket.socket, _request: bytes) -> None:
        assert isinstance(serve, bytes)
        connection.sendall(serve)
        raise StopIteration  # closes the connection

    with closing(Exporter(send if isinstance(serve, bytes) else serve, tls)) as running:
        yield running


def one(scraper: Scraper) -> Scraped:
    """Begin a scrape, and wait for its result."""
    scraper.begin()
    while (scraped := scraper.take()) is None:
        select.select([scraper], [], [], scraper.left_s)
    return scraped


def scraped(serve: Serve | bytes, timeout_s: float = PATIENCE_S, **files: str | None) -> Scraped:
    with exporter(serve) as running, closing(Scraper(Target(running.url(), **files), timeout_s)) as scraper:
        return one(scraper)


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        *headers,
        f"Content-Length: {len(body) if length is None else length}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def test_a_page_is_returned_unchanged() -> None:
    with exporter(OK) as running, closing(Scraper(Target(running.url()), PATIENCE_S)) as scraper:
        found = one(scraper)
        assert found[:2] == (PAGE, "")
        assert found.seconds > 0
        request = running.requests[0][0].decode()
    assert request.startswith("GET /metrics?a=b HTTP/1.1\r\n")
    for line in (f"Host: localhost:{running.port}", "Accept-Encoding: gzip", "User-Agent: rondo-feed/"):
        assert line in request
    assert "text/plain;version=0.0.4" in request


@pytest.mark.parametrize(
    "response",
    [
        answer(gzip.compress(PAGE, mtime=0), "Content-Encoding: gzip"),
        answer(gzip.compress(b"x ", mtime=0) + gzip.compress(b"1\n", mtime=0), "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx \r\n2\r\n1\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nx 1\n",
    ],
)
def test_compressed_chunked_and_unbounded_pages(response: bytes) -> None:
    assert scraped(response)[:2] == (PAGE, "")


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (answer(b"", status="500 Internal Server Error"), "answered 500 Internal Server Error"),
        (answer(b"", status="401 Unauthorized"), "--bearer-token-file"),
        (answer(b"", "Location: /other", status="302 Found"), "302 Found, to /other: give that to --url"),
        (answer(PAGE, length=9), "stops in the middle"),
        (answer(gzip.compress(PAGE, mtime=0)[:-3], "Content-Encoding: gzip"), "stops in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx 1\n", "stops in the middle"),
        (answer(PAGE, "Content-Type: application/openmetrics-text; version=1.0.0"), "# EOF"),
        (answer(PAGE, "Content-Encoding: gzip"), "declared as gzip"),
        (answer(gzip.compress(PAGE, mtime=0) + b"x 2\n", "Content-Encoding: gzip"), "declared as gzip"),
        (answer(PAGE, "Content-Encoding: br"), "encoded as 'br'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an answer of HTTP"),
        (b"", "closed without an answer"),
    ],
)  # fmt: skip
def test_errors_of_a_page_are_reported(response: bytes, why: str) -> None:
    found = scraped(response)
    assert found.page == b""
    assert why in found.error


@pytest.mark.parametrize(
    "response",
    [
        answer(b"", f"Location: /{'x' * 50_000}", status="302 Found"),
        answer(b"", status=f"500 {'x' * 50_000}"),
        answer(b"", f"Content-Encoding: {'x' * 50_000}"),
    ],
    ids=["location", "reason", "encoding"],
)
def test_an_exporter_cannot_make_a_message_long(response: bytes) -> None:
    assert 0 < len(scraped(response).error) < 1_200


def test_a_page_is_bounded_before_and_after_decompression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "MAX_PAGE", 100_000)
    lines = PAGE * 30_000
    packed = gzip.compress(lines, mtime=0), gzip.compress(lines[:80_000], mtime=0) * 2
    for response in (answer(lines), *(answer(one, "Content-Encoding: gzip") for one in packed)):
        found = scraped(response)
        assert "over 97.7 KiB" in found.error
        assert found.page == b""
    assert scraped(answer(PAGE * 25_000)).error == ""


def test_a_closed_port_is_reported() -> None:
    with exporter(OK) as running:
        url = running.url()
    with closing(Scraper(Target(url), PATIENCE_S)) as scraper:
        assert one(scraper).error == "Connection refused"


def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    closing_time = threading.Event()

    def serve(connection: socket.socket, _request: bytes) -> None:
        closes = closing_time.is_set()  # read it before the answer, after which the test continues
        connection.sendall(OK)
        if closes:
            raise StopIteration

    with exporter(serve) as running, closing(Scraper(Target(running.url()), PATIENCE_S)) as scraper:
        assert [one(scraper).page for _ in range(3)] == [PAGE] * 3
        assert [len(requests) for requests in running.requests] == [3]
        closing_time.set()
        assert [one(scraper).page for _ in range(3)] == [PAGE] * 3
        assert [len(requests) for requests in running.requests] == [4, 1, 1]


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\n", OK[:-2]])
def test_a_hanging_exporter_is_given_up_at_the_deadline(part: bytes) -> None:
    slow = threading.Event()
    asked = []

    def serve(connection: socket.socket, _request: bytes) -> None:
        asked.append(1)
        if len(asked) == 1:
            connection.sendall(part)
            slow.wait(PATIENCE_S)
            raise StopIteration
        connection.sendall(OK)

    with exporter(serve) as running, closing(Scraper(Target(running.url()), 0.2)) as scraper:
        scraped = one(scraper)
        assert scraped[:2] == (b"", "timed out") and scraped.seconds >= 0.2
        thread = scraper._thread
        assert thread is not None
        thread.join(PATIENCE_S)  # no thread is left
        assert not thread.is_alive()
        slow.set()
        scraper._timeout_s = PATIENCE_S
        assert one(scraper).page == PAGE


def test_a_dripping_exporter_is_given_up_at_the_deadline() -> None:
    done = threading.Event()

    def serve(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(answer(b"", length=1_000_000))
        while not done.wait(0.01):
            connection.sendall(b"#")

    with exporter(serve) as running, closing(Scraper(Target(running.url()), 0.3)) as scraper:
        assert one(scraper).error == "timed out"
        done.set()


def test_a_slow_resolver_delays_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    known = threading.Event()
    looked_up = []

    def create_connection(address: object, **_: object) -> socket.socket:
        looked_up.append(address)
        known.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with closing(Scraper(Target("http://nowhere.example/metrics"), 0.1)) as scraper:
        assert [one(scraper).error for _ in range(3)] == ["timed out"] * 3
        assert len(looked_up) == 1  # by one thread
        known.set()
        assert scraper._thread is not None
        scraper._thread.join(PATIENCE_S)
        scraper._timeout_s = PATIENCE_S
        assert one(scraper).error == "Name or service not known"


# --- credentials and trusted CAs -------------------------------------------------------------------------


def test_a_token_and_a_password_come_from_files_read_again(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    for flag, first, second in (
        ("bearer_token_file", ("one\n", "Bearer one"), ("two", "Bearer two")),
        ("basic_auth_file", ("me:one\n", "Basic bWU6b25l"), ("me:two", "Basic bWU6dHdv")),
    ):
        secret.write_text(first[0])
        with exporter(OK) as running:
            with closing(Scraper(Target(running.url(), **{flag: str(secret)}), PATIENCE_S)) as scraper:
                one(scraper)
                secret.unlink()
                assert one(scraper).error == f"--{flag.replace('_', '-')} {secret}: No such file or directory"
                secret.write_text(second[0])
                one(scraper)
            requests = [request.decode() for requests in running.requests for request in requests]
        assert f"Authorization: {first[1]}\r\n" in requests[0]
        assert f"Authorization: {second[1]}\r\n" in requests[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of localhost, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    if shutil.which("openssl") is None:
        must_have("openssl is not on PATH")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem "
    )
    command += "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=folder)
    return folder


def test_https_needs_a_trusted_certificate(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with exporter(OK, tls) as running:
        trusting = Target(running.url("https"), ca_file=str(certificate / "cert.pem"))
        with closing(Scraper(trusting, PATIENCE_S)) as scraper:
            assert [one(scraper).page for _ in range(2)] == [PAGE] * 2
        with closing(Scraper(Target(running.url("https")), PATIENCE_S)) as scraper:
            found = one(scraper)
            assert "its certificate is not good" in found.error
            assert "--ca-file" in found.error
        wrong_name = Target(
            running.url("https").replace("localhost", "127.0.0.1"), ca_file=str(certificate / "cert.pem")
        )
        with closing(Scraper(wrong_name, PATIENCE_S)) as scraper:
            assert "its certificate is not good" in one(scraper).error


@pytest.mark.parametrize(
    ("url", "files", "why"),
    [
        ("http://a/", {"basic_auth_file": "PLAIN", "bearer_token_file": "PLAIN"}, "give one of them"),
        ("http://a/", {"bearer_token_file": "/nowhere"}, "--bearer-token-file /nowhere: No such file"),
        ("http://a/", {"basic_auth_file": "PLAIN"}, "write USER:PASSWORD in it"),
        ("https://a/", {"ca_file": "PLAIN"}, "--ca-file"),
        ("https://a/", {"ca_file": "/nowhere"}, "--ca-file /nowhere: No such file"),
        ("http://a/", {"ca_file": "PLAIN"}, "https"),
    ],
)
def test_unusable_files_are_reported_at_once(
    url: str, files: dict[str, str], why: str, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("plain")
    paths = {flag: str(tmp_path / "plain") if name == "PLAIN" else name for flag, name in files.items()}
    with pytest.raises(UsageError, match=why):
        Target(url, **paths)


@pytest.mark.parametrize(
    ("url", "instance"),
    [
        ("http://web-1:9100/metrics", "web-1:9100"),
        ("http://web-1/", "web-1:80"),
        ("https://web-1", "web-1:443"),
        ("http://[::1]:9100/metrics", "[::1]:9100"),
    ],
)  # fmt: skip
def test_the_default_instance_of_an_exporter(url: str, instance: str) -> None:
    assert Target(url).instance == instance
