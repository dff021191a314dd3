"""One attempt against real servers on loopback that misbehave in every way we know."""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import socket
import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from devtools.http_server import Reply, http_server
from rondo_tools.errors import UsageError
from rondo_tools.push.http.transport import Transport
from rondo_tools.push.model import Answer, Outcome
from rondo_tools.urls import parse_url
from tests.support.needs import PATIENCE_S

BODY = b"body" * 100


def send(url: str, timeout_s: float = 300.0, now_s: float = 0.0) -> Answer:
    with contextlib.closing(Transport(url, timeout_s=timeout_s, now=lambda: now_s)) as transport:
        return transport.send(BODY)


def send_connected(url: str, timeout_s: float) -> Answer:
    """Send with a short time-out; again if a busy machine did not even connect within it."""
    while "no connection within" in (answer := send(url, timeout_s)).text:
        pass
    return answer


def answered(status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> Answer:
    with http_server(lambda handler, body: (status, headers or {}, content)) as url:
        return send(url)


def test_the_request_conforms_to_remote_write_1_0() -> None:
    seen: list[tuple[str, dict[str, str], bytes]] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append((handler.command, dict(handler.headers), body))
        return 204, {}, b""

    with http_server(answer) as url:
        assert send(url).outcome is Outcome.ACCEPTED
    ((method, headers, body),) = seen
    assert (method, body) == ("POST", BODY)
    assert headers["Content-Encoding"] == "snappy"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["X-Prometheus-Remote-Write-Version"] == "0.1.0"
    assert headers["User-Agent"].startswith("rondo-push/")
    assert headers.keys() <= {
        "Content-Encoding", "Content-Type", "X-Prometheus-Remote-Write-Version", "User-Agent",
        "Host", "Content-Length", "Accept-Encoding",
    }  # fmt: skip


TABLE = {
    **dict.fromkeys([200, 202, 204, 226, 299], Outcome.ACCEPTED),
    **dict.fromkeys([400, 409, 422], Outcome.REFUSED),
    **dict.fromkeys([301, 302, 303, 304, 399], Outcome.DENIED),
    **dict.fromkeys(
        [401, 402, 403, 404, 405, 406, 407, 410, 411, 412, 414, 415, 416, 417, 418], Outcome.DENIED
    ),
    **dict.fromkeys([421, 423, 424, 426, 428, 431, 440, 444, 449, 451, 460, 463], Outcome.DENIED),
    **dict.fromkeys([494, 495, 496, 497, 498, 499], Outcome.DENIED),
    **dict.fromkeys([408, 425, 429, 500, 502, 503, 504, 511, 520, 599, 600, 777, 999], Outcome.RETRY),
    413: Outcome.TOO_LARGE,
}


@pytest.mark.parametrize(("status", "outcome"), TABLE.items())
def test_statuses(status: int, outcome: Outcome) -> None:
    answer = answered(status)
    assert answer.outcome is outcome
    assert answer.unclear == (outcome is Outcome.RETRY)
    assert outcome is Outcome.ACCEPTED or str(status) in answer.text


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        (b"\n<!DOCTYPE html><title>Sign in</title>", Outcome.DENIED),
        (b'<?xml version="1.0"?>\n<html lang="en">', Outcome.DENIED),
        (b"<HTML>", Outcome.DENIED),
        (b"", Outcome.ACCEPTED),
        (b"ok\n", Outcome.ACCEPTED),
        (b'{"status":"success"}', Outcome.ACCEPTED),
        (b'<?xml version="1.0"?><done/>', Outcome.ACCEPTED),
        (b"<!doctype note>", Outcome.ACCEPTED),
        (b"no <html>", Outcome.ACCEPTED),
    ],
)
def test_an_html_page_is_no_delivery_and_any_other_body_is(content: bytes, outcome: Outcome) -> None:
    assert answered(200, {"Content-Type": "text/html"}, content).outcome is outcome


def test_404_names_the_flag_of_prometheus() -> None:
    assert "--web.enable-remote-write-receiver" in answered(404).text


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A date without a zone is UTC, in any local time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [("3", 3.0), (email.utils.formatdate(1000, usegmt=True), 40.0), (email.utils.formatdate(1), 0.0),
     ("Thu, 01 Jan 1970 00:16:40 GMT", 40.0), ("Thursday, 01-Jan-70 00:16:40 GMT", 40.0),
     ("Thu Jan  1 00:16:40 1970", 40.0), ("Thu, 01 Jan 1970 00:16:40", 40.0),
     ("Thu, 01 Jan 1970 00:16:40 -0000", 40.0), ("Thu, 01 Jan 1970 01:16:40 +0100", 40.0),
     ("soon", None), ("-3", None), ("\xb2", None), ("9" * 400, 3600.0)],
)  # fmt: skip
def test_retry_after_in_seconds_and_as_a_date(
    value: str, wait_s: float | None, far_from_greenwich: None
) -> None:
    with http_server(lambda handler, body: (429, {"Retry-After": value}, b"")) as url:
        assert send(url, now_s=960.0).retry_after_s == wait_s


def test_the_servers_text_is_made_harmless() -> None:
    text = answered(400, content=b"line\x1b[31m one\r\n\xffline two" + b"x" * 10_000).text
    assert text.isprintable()
    assert "line [31m one" in text
    assert len(text) < 500


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 400 Bad\r\nContent-Length: 999999999\r\n\r\n" + b"no " * 3000)
        handler.wfile.flush()
        gone.wait(300)

    gone = threading.Event()
    with http_server(answer) as url:
        result = send(url)
        gone.set()
    assert result.outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("begun", "then", "outcome", "timeout_s"),
    [
        (b"", b"X", Outcome.RETRY, 0.4),
        # The status is sent. Enough time for a busy machine to read one line.
        (b"HTTP/1.1 204 No Content\r\n", b"X-A: b\r\n", Outcome.ACCEPTED, 5.0),
    ],
)
def test_a_peer_that_trickles_is_cut_off(
    begun: bytes, then: bytes, outcome: Outcome, timeout_s: float
) -> None:
    gone = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(begun)
        while not gone.wait(0.05):
            handler.wfile.write(then)
            handler.wfile.flush()

    with http_server(answer) as url:
        # Without the cut it would continue until the test's time-out.
        result = send_connected(url, timeout_s)
        gone.set()
    assert result.outcome is outcome
    if outcome is Outcome.RETRY:
        assert result.unclear
        assert "no whole answer within 0.4 s" in result.text


def test_silence_is_a_time_out_and_unclear() -> None:
    gone = threading.Event()

    def silent(_handler: http.server.BaseHTTPRequestHandler, _body: bytes) -> None:
        gone.wait(PATIENCE_S)

    with http_server(silent) as url:
        result = send_connected(url, 0.3)
        gone.set()
    assert (result.outcome, result.unclear) == (Outcome.RETRY, True)


def test_a_connection_that_is_reset_is_unclear() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.connection.close()

    with http_server(answer) as url:
        result = send(url)
    assert (result.outcome, result.unclear) == (Outcome.RETRY, True)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound but not listening: nobody else can take it
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_no_connection_is_clear(closed_port: int) -> None:
    result = send(f"http://127.0.0.1:{closed_port}/write?token=secret")
    assert (result.outcome, result.unclear) == (Outcome.RETRY, False)
    assert result.text == f"http://127.0.0.1:{closed_port}/write: Connection refused"


@pytest.mark.parametrize("status", [307, 308])
def test_redirects_to_the_same_origin_are_followed_with_the_body(status: int) -> None:
    seen: list[tuple[str, bytes]] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append((handler.path, body))
        return (status, {"Location": "/new"}, b"") if handler.path == "/write" else (204, {}, b"")

    with http_server(answer) as url:
        assert send(url).outcome is Outcome.ACCEPTED
    assert seen == [("/write", BODY), ("/new", BODY)]


@pytest.mark.parametrize(
    ("status", "target"),
    [
        (307, "http://127.0.0.1:1/elsewhere"),
        (308, "https://127.0.0.1/x"),
        (302, "/login"),
        (307, "http://[bad/"),
    ],
)
def test_other_redirects_are_errors_that_name_the_new_url(status: int, target: str) -> None:
    result = answered(status, {"Location": target})
    assert result.outcome is Outcome.DENIED
    assert "--remote-write" in result.text
    assert target.rpartition("/")[2] in result.text


def test_no_cookie_is_sent_back() -> None:
    seen: list[str | None] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append(handler.headers["Cookie"])
        cookie = {"Set-Cookie": f"a{len(seen)}=b; Path=/; Max-Age=999"}
        return (307, cookie | {"Location": "/new"}, b"") if handler.path == "/write" else (204, cookie, b"")

    with http_server(answer) as url, contextlib.closing(Transport(url, timeout_s=5)) as transport:
        for _ in range(3):
            assert transport.send(BODY).outcome is Outcome.ACCEPTED
    assert seen == [None] * 6


def test_redirects_in_a_circle_end() -> None:
    assert "redirects" in answered(307, {"Location": "/write"}).text


def test_answers_that_are_not_http() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(b"SSH-2.0-x\r\n")

    with http_server(answer) as url:
        result = send(url)
    assert (result.outcome, result.unclear) == (Outcome.RETRY, True)
    assert result.text.isprintable()


def test_a_connection_is_used_again_and_one_that_was_closed_is_not() -> None:
    ports: list[int] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        ports.append(handler.client_address[1])
        handler.close_connection = len(ports) == 2
        return 204, {}, b""

    with http_server(answer) as url, contextlib.closing(Transport(url, timeout_s=300)) as transport:
        assert [transport.send(BODY).outcome for _ in range(3)] == [Outcome.ACCEPTED] * 3
    assert ports[0] == ports[1] != ports[2]


@pytest.mark.parametrize(
    "url",
    ["", "localhost:9090", "ftp://h/x", "http://", "http:///x", "http://h:0x/", "http://h:99999/",
     "http://user:secret@h/x", "http://h/x#y", "http://[::1/", "https://-.\udc80/", "http://h:0/",
     "http://@h/", "http://:secret@h/", "http://h/x ", " http://h/x", "http://h /x", "http://h\t/x",
     "http://h/x\n", "http://h\\@else/x", "http://a..b/", f"http://{'a' * 64}/", "http://[::1]9090/",
     "http://[fe80::1%25eth0]:9090/x", "http://[fe80::1%eth0]/x"],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://h", "http://h:9090/x?y=z", "HTTP://H/x", "http://[::1]:9090/x", "http://127.0.0.1/x", "http://h./x",
     "http://b\u00fccher.example/x", "http://xn--bcher-kva.example/x", "https://h/%20", "http://h:/x"],
)  # fmt: skip
def test_urls_that_are_accepted(url: str) -> None:
    assert parse_url(url) == url
