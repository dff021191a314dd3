"""Credentials and trust: real TLS handshakes, secrets that stay secret, proxies, headers."""

from __future__ import annotations

import base64
import contextlib
import http.server
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from devtools.http_server import Reply, http_server
from devtools.receivers.receiver import Receiver
from rondo_tools.errors import UsageError
from rondo_tools.push.http.credentials import Credentials, parse_credentials
from rondo_tools.push.http.transport import Transport
from rondo_tools.push.model import Answer, Outcome
from tests.support.fixtures import Run
from tests.support.needs import must_have
from tests.support.push.raw_server import Peer, RawServer
from tests.support.push.receivers import expected, fill, header, seconds

NOW = int(time.time()) * 1000  # anew for each test
SECRET = "s3cr3t-and-l0ng"
pytestmark = pytest.mark.usefixtures("now")


class Keys(NamedTuple):
    ca: Path
    other_ca: Path
    server: Path
    expired: Path
    client: Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A CA, another one, and certificates of the first; each file has the key too."""
    folder = tmp_path_factory.mktemp("keys")
    if shutil.which("openssl") is None:
        must_have("openssl is not on PATH")

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        openssl("req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                "-subj", f"/CN={name}")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name, days in (("server", "2"), ("expired", "-1"), ("client", "2")):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", days, "-extfile", "names")  # fmt: skip
        (folder / f"{name}.pem").write_text(
            (folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text()
        )
    return Keys(*(folder / f"{name}.pem" for name in ("ca", "other", "server", "expired", "client")))


@contextlib.contextmanager
def https_server(
    answer: Callable[[http.server.BaseHTTPRequestHandler, bytes], Reply | None],
    certificate: Path,
    client_ca: Path | None = None,
) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    with http_server(answer, context) as url:
        yield url


def accept(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
    return 204, {}, b""


def send(url: str, known: Credentials) -> Answer:
    with contextlib.closing(Transport(url, timeout_s=300, credentials=known)) as transport:
        return transport.send(b"body")


def test_own_ca(keys: Keys) -> None:
    with https_server(accept, keys.server) as url:
        assert send(url, parse_credentials(ca_file=str(keys.ca))).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(("certificate", "ca", "says"), [
    ("server", "other_ca", "not accepted"),
    ("server", None, "not accepted"),
    ("expired", "ca", "expired"),
])  # fmt: skip
def test_an_untrusted_server_gets_nothing(keys: Keys, certificate: str, ca: str | None, says: str) -> None:
    asked: list[bytes] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        asked.append(body)
        return 204, {}, b""

    known = parse_credentials(ca_file=str(getattr(keys, ca))) if ca else Credentials()
    with https_server(answer, getattr(keys, certificate)) as url:
        result = send(url, known)
    assert result.outcome is Outcome.DENIED
    assert says in result.text
    assert "--ca-file" in result.text
    assert asked == []


def test_a_name_that_is_not_in_the_certificate_is_not_trusted(keys: Keys) -> None:
    with https_server(accept, keys.server) as url:
        result = send(url.replace("127.0.0.1", "127.0.0.2"), parse_credentials(ca_file=str(keys.ca)))
    assert result.outcome in (Outcome.DENIED, Outcome.RETRY)  # on some systems there is no 127.0.0.2
    assert not result.unclear


def test_client_certificate(keys: Keys) -> None:
    with https_server(accept, keys.server, keys.ca) as url:
        with_it = parse_credentials(ca_file=str(keys.ca), client_cert=str(keys.client))
        assert send(url, with_it).outcome is Outcome.ACCEPTED
        key = keys.client.with_suffix(".key")
        apart = parse_credentials(
            ca_file=str(keys.ca), client_cert=str(keys.client.with_suffix(".crt")), client_key=str(key)
        )
        assert send(url, apart).outcome is Outcome.ACCEPTED
        assert send(url, parse_credentials(ca_file=str(keys.ca))).outcome is not Outcome.ACCEPTED


@pytest.mark.parametrize("size", [100, 4 << 20])  # the server closes while the larger one is sent
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("certificate", ["client", None])
def test_a_refused_client_certificate_is_a_denial(
    keys: Keys, certificate: str | None, version: ssl.TLSVersion, size: int
) -> None:
    """With TLS 1.3 our side of the handshake ends before the server has seen the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.server)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(keys.other_ca)
    context.minimum_version = context.maximum_version = version
    known = parse_credentials(
        ca_file=str(keys.ca), client_cert=str(getattr(keys, certificate)) if certificate else None
    )
    with RawServer(lambda peer: peer.upgrade(context)) as server:
        url = server.url.replace("http:", "https:")
        with contextlib.closing(Transport(url, timeout_s=5, credentials=known)) as transport:
            answers = {transport.send(bytes(size)) for _ in range(3)}
    (answer,) = answers  # the same message each time, so a daemon logs it once
    assert (answer.outcome, answer.unclear) == (Outcome.DENIED, False)
    assert "--client-cert" in answer.text


@pytest.mark.parametrize(
    ("alert", "outcome", "says"),
    [
        (40, Outcome.DENIED, "--client-cert"),  # handshake_failure
        (42, Outcome.DENIED, "--client-cert"),  # bad_certificate
        (45, Outcome.DENIED, "--client-cert"),  # certificate_expired
        (48, Outcome.DENIED, "--client-cert"),  # unknown_ca
        (70, Outcome.DENIED, "TLS version"),  # protocol_version
        (71, Outcome.DENIED, "TLS version"),  # insufficient_security
        (112, Outcome.DENIED, "--remote-write"),  # unrecognized_name
        (20, Outcome.RETRY, ""),  # bad_record_mac
        (80, Outcome.RETRY, ""),  # internal_error
    ],
)
def test_alerts_in_the_handshake(alert: int, outcome: Outcome, says: str) -> None:
    def handle(peer: Peer) -> None:
        peer.sock.recv(1 << 16)
        peer.send(bytes([21, 3, 3, 0, 2, 2, alert]))

    with RawServer(handle) as server:
        result = send(server.url.replace("http:", "https:"), Credentials())
    assert (result.outcome, result.unclear) == (outcome, False)
    assert says in result.text


def test_https_to_an_http_port() -> None:
    with http_server(accept) as url:
        result = send(url.replace("http:", "https:"), Credentials())
    assert (result.outcome, "http://" in result.text) == (Outcome.DENIED, True)


def test_a_key_that_no_longer_matches_its_certificate(keys: Keys, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(keys.client.with_suffix(".crt").read_bytes())
    key.write_bytes(keys.client.with_suffix(".key").read_bytes())
    known = parse_credentials(ca_file=str(keys.ca), client_cert=str(cert), client_key=str(key))
    key.write_bytes(keys.server.with_suffix(".key").read_bytes())
    with https_server(accept, keys.server, keys.ca) as url:
        result = send(url, known)
    assert (result.outcome, "--client-key" in result.text) == (Outcome.DENIED, True)


def test_a_redirect_cannot_set_other_credentials(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append(handler.headers["Authorization"])
        host = handler.headers["Host"]
        return 307, {"Location": f"http://user:{SECRET}@{host}/there"}, b""

    (tmp_path / "token").write_text("ours")
    with http_server(answer) as url:
        result = send(url, parse_credentials(bearer_token_file=str(tmp_path / "token")))
    assert (result.outcome, SECRET in result.text) == (Outcome.DENIED, False)
    assert seen == ["Bearer ours"]


@pytest.mark.parametrize(("flag", "scheme"), [("bearer_token_file", "Bearer"), ("basic_auth_file", "Basic")])
def test_a_secret_is_read_again_when_it_changes(tmp_path: Path, flag: str, scheme: str) -> None:
    seen: list[str] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append(handler.headers["Authorization"])
        return 204, {}, b""

    file = tmp_path / "secret"
    file.write_text("me:one\n")
    arguments: dict[str, Any] = {flag: str(file)}
    with (
        http_server(answer) as url,
        contextlib.closing(
            Transport(url, timeout_s=300, credentials=parse_credentials(**arguments))
        ) as transport,
    ):
        transport.send(b"")
        (tmp_path / "new").write_text("me:other")
        (tmp_path / "new").replace(file)
        transport.send(b"")
        file.unlink()
        gone = transport.send(b"")
    texts = ["me:one", "me:other"]
    coded = [base64.b64encode(text.encode()).decode() if scheme == "Basic" else text for text in texts]
    assert seen == [f"{scheme} {text}" for text in coded]
    assert (gone.outcome, gone.unclear) == (Outcome.RETRY, False)


def test_headers_and_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[http.server.BaseHTTPRequestHandler] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append(handler)
        return 204, {}, b""

    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "token").write_text(SECRET)
    with http_server(answer) as url:
        send(
            url,
            parse_credentials(header=["X-Scope-OrgID: team-a"], bearer_token_file=str(tmp_path / "token")),
        )
    assert seen[0].headers["X-Scope-OrgID"] == "team-a"
    assert seen[0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("through", ["flag", "variable", "neither"])
def test_proxies(monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    asked: list[str] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        asked.append(handler.path)
        return 204, {}, b""

    with http_server(answer) as url:
        proxy = url.removesuffix("/write")
        target = "http://prometheus.invalid/api/v1/write"
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        if through != "flag":
            monkeypatch.setenv("http_proxy", proxy)
        if through == "neither":
            monkeypatch.setenv("no_proxy", "prometheus.invalid")
        result = send(target, parse_credentials(proxy=proxy) if through == "flag" else parse_credentials())
    assert asked == ([] if through == "neither" else [target])
    assert (result.outcome is Outcome.ACCEPTED) == (through != "neither")


def mistakes(folder: Path) -> list[tuple[dict[str, Any], str]]:
    (folder / "empty").write_text("")
    (folder / "two-lines").write_text(f"{SECRET}\n{SECRET}")
    (folder / "bytes").write_bytes(b"\xff" + SECRET.encode())
    (folder / "no-colon").write_text(SECRET)
    (folder / "no-pem").write_text(SECRET)
    return [
        ({"bearer_token_file": "missing"}, "--bearer-token-file"),
        ({"bearer_token_file": "empty"}, "--bearer-token-file"),
        ({"bearer_token_file": "two-lines"}, "--bearer-token-file"),
        ({"bearer_token_file": "bytes"}, "--bearer-token-file"),
        ({"basic_auth_file": "no-colon"}, "USER:PASSWORD"),
        ({"basic_auth_file": "no-colon", "bearer_token_file": "no-colon"}, "one of them"),
        ({"ca_file": "no-pem"}, "--ca-file"),
        ({"ca_file": "missing"}, "--ca-file"),
        ({"client_cert": "no-pem"}, "--client-cert"),
        ({"client_key": "no-pem"}, "--client-cert"),
        ({"header": [f"Authorization: {SECRET}"]}, "--bearer-token-file"),
        ({"header": [f"Cookie: {SECRET}"]}, "Cookie"),
        ({"header": ["Host: x"]}, "Host"),
        ({"header": ["content-type: text/plain"]}, "content-type"),
        ({"header": ["X-Prometheus-Remote-Write-Version: 9"]}, "X-Prometheus-Remote-Write-Version"),
        ({"header": [f"no colon {SECRET}"]}, "NAME: VALUE"),
        ({"header": [f"X: {SECRET}\r\nY: z"]}, "NAME: VALUE"),
        ({"proxy": f"http://u:{SECRET}@x"}, "--proxy"),
        ({"proxy": "socks9://x"}, "--proxy"),
        ({"proxy": "http://x "}, "--proxy"),
        ({"proxy": "http://x:0"}, "--proxy"),
        ({"proxy": "http://[fe80::1%25eth0]:3128"}, "zone"),
    ]


def test_mistakes_are_found_before_a_byte_is_sent_and_show_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, says in mistakes(tmp_path):
        with pytest.raises(UsageError) as caught:
            parse_credentials(**arguments)
        assert says in str(caught.value)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


def test_no_secret_is_printed_by_verbose(run: Run, keys: Keys, tmp_path: Path) -> None:
    store = tmp_path / "store"
    fill(store, header(start_ms=NOW - 20_000), seconds(5, NOW - 20_000), "poweroff")
    (tmp_path / "token").write_text(SECRET)
    receiver = Receiver()

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        if handler.headers["Authorization"] != f"Bearer {SECRET}":
            return 401, {}, b"who are you?"
        if not receiver.requests:
            receiver.take(body)
            return 503, {}, b"try again"
        receiver.take(body)
        return 204, {}, b""

    with https_server(answer, keys.server, keys.ca) as url:
        flags: list[str | Path] = ["--remote-write", url, "--ca-file", keys.ca, "--client-cert", keys.client]
        denied = run("rondo-push", store, *flags, "-v")
        assert (denied.returncode, b"other credentials" in denied.stderr) == (69, True)
        done = run("rondo-push", store, *flags, "-v", "--bearer-token-file", tmp_path / "token")
        assert done.returncode == 0
        wrong = run("rondo-push", store, "--remote-write", url, "--bearer-token-file", keys.server, "-v")
        assert wrong.returncode == 64
    assert receiver.samples == expected(store)
    log = denied.stderr + done.stderr + wrong.stderr + run("rondo-push", "--help").stdout
    assert SECRET.encode() not in log
    assert b"PRIVATE" not in log
    assert not any(SECRET in path.read_text(errors="replace") for path in store.glob("*.json"))


def test_two_endpoints_each_with_a_cursor_and_a_selector(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("a", "b"):
        fill(store, header(name, NOW - 20_000), seconds(5, NOW - 20_000), "poweroff")
    everything, part = Receiver(), Receiver()

    def into(receiver: Receiver) -> Callable[[http.server.BaseHTTPRequestHandler, bytes], Reply]:
        lock = threading.Lock()

        def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
            with lock:
                assert receiver.take(body) is None
            return 204, {}, b""

        return answer

    with http_server(into(everything)) as first, http_server(into(part)) as second:
        assert run("rondo-push", store, "--remote-write", first).returncode == 0
        flags = ["--remote-write", second, "--cursor", "lab", "--match", 'heat{instance="b"}']
        for _ in range(2):
            assert run("rondo-push", store, *flags).returncode == 0
    assert everything.samples == expected(store)
    wanted = {
        labels: samples
        for labels, samples in expected(store).items()
        if {("__name__", "heat"), ("instance", "b")} <= set(labels)
    }
    assert part.samples == wanted
    assert len(part.requests) == 1
    assert sorted(path.name for path in store.glob("cursor_*.json")) == [
        "cursor_lab.json", "cursor_prometheus.json",
    ]  # fmt: skip


def test_max_age_passes_over_old_samples(run: Run, tmp_path: Path) -> None:
    now_ms = int(time.time()) * 1000
    fill(tmp_path, header(start_ms=now_ms - 300_000), seconds(200, now_ms - 300_000), "poweroff")
    receiver = Receiver()

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        receiver.take(body)
        return 204, {}, b""

    with http_server(answer) as url:
        done = run("rondo-push", tmp_path, "--remote-write", url, "--max-age", "200s", "-v")
        assert done.returncode == 0
    oldest_ms = min(min(samples) for samples in receiver.samples.values())
    assert now_ms - 200_000 <= oldest_ms < now_ms - 150_000
    left = {
        labels: {t_ms: value for t_ms, value in samples.items() if t_ms >= oldest_ms}
        for labels, samples in expected(tmp_path).items()
    }
    assert receiver.samples == left
    assert b" 0 passed over" not in done.stderr
