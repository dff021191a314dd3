"""ONE attempt to deliver a body, and what came of it. Policy lives in the loop.

Strategy: everything that can happen to an HTTP request becomes one of five answers. What matters
most beside them is whether a request that failed may have been accepted all the same (`unclear`):
only one that never left us surely was not.

Four statuses speak of the samples. Any other refusal, known or not, speaks of us or the endpoint:
to split the batch for it would throw away sample after sample for a mistake in the configuration.

An attempt has one bound on its whole time: a peer that sends a byte every few seconds is cut off.
"""

from __future__ import annotations

import enum
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from rondo_tools import __version__
from rondo_tools.errors import PushError, UsageError
from rondo_tools.push.encoding.body import HEADERS, V1
from rondo_tools.push.http import urls
from rondo_tools.push.http.credentials import Credentials
from rondo_tools.push.http.session import Wire

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
MAX_REDIRECTS = 3
_MAX_ANSWER = 4096  # bytes of an answer's body that are read
_LONGEST_WAIT_S = 3600.0  # whatever the server asks for
_MAX_TEXT = 300  # characters of it that are shown

_REFUSED = (400, 409, 422)
_PASSING = (408, 425, 429)  # 4xx that ask for the same again
_ADVICE = {
    401: "it wants other credentials",
    402: "it wants to be paid",
    403: "it does not let us write",
    404: "no such path; is the receiver enabled? (Prometheus: --web.enable-remote-write-receiver)",
    405: "it takes no POST at this path; is the URL the one for remote-write?",
    406: "it does not speak remote-write 1.0",
    407: "a proxy wants credentials",
    410: "the path is gone",
    411: "it does not speak remote-write 1.0",
    415: "it does not speak remote-write 1.0",
    421: "the URL names a host that it does not serve",
    426: "it wants another protocol",
    431: "it takes no headers of that size",
    451: "it does not let us write",
}
_NO_ADVICE = "which is not about the samples; look at the endpoint, and at what stands before it"


class Outcome(enum.Enum):
    """What came of an attempt."""

    ACCEPTED = enum.auto()
    RETRY = enum.auto()  # the same again may succeed
    REFUSED = enum.auto()  # something in this body will never be accepted
    TOO_LARGE = enum.auto()
    DENIED = enum.auto()  # no body will be accepted before somebody changes something


@dataclass(frozen=True)
class Answer:
    """The outcome; `text` is one line for people, the server's words in it made harmless.

    With RETRY: `unclear` if the request may have been accepted all the same; `retry_after_s` if
    the server asked for a pause. `written` is how many samples a receiver of 2.0 says that it wrote;
    None if it does not say. `status` is HTTP's; 0 where there was no answer.
    """

    outcome: Outcome
    text: str = ""
    unclear: bool = False
    retry_after_s: float | None = None
    status: int = 0
    written: int | None = None


def parse_url(text: str) -> str:
    """An http or https URL without secrets. Raises UsageError."""
    if urls.holds_secret(text):
        raise UsageError(
            "the URL carries a user name or password; other users of this machine can read it there"
        )
    wrong = urls.fault(text)
    if wrong is None and urlsplit(text).fragment:
        wrong = "a fragment, from # on, is never sent"
    if wrong is None:
        try:
            requests.Request("POST", text).prepare()
        except (requests.RequestException, UnicodeError) as exc:
            wrong = str(exc)
    if wrong is not None:
        raise UsageError(f"{text!r} is no URL to write to: {wrong}")
    return text


class Transport:
    """A connection to one URL, kept open between attempts."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        credentials: Credentials | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self._credentials = credentials or Credentials()
        self._timeout_s = timeout_s
        self._now = now
        self._wire = Wire()
        self._session = self._wire.session()
        self._session.headers["User-Agent"] = f"rondo-push/{__version__}"
        self._session.headers.update(self._credentials.headers)
        self._session.proxies = self._credentials.proxies(url)
        if self._credentials.ca_file is not None:
            self._session.verify = str(self._credentials.ca_file)
        if self._credentials.client_cert is not None:
            cert, key = self._credentials.client_cert
            self._session.cert = (str(cert), str(key))

    def close(self) -> None:
        self._session.close()

    def send(self, body: bytes, protocol: str = V1) -> Answer:
        """Send the body, of that protocol, once.

        Never raises for anything that the network or the peer does.
        """
        url = self.url
        try:
            authorization = self._credentials.authorization()
        except PushError as exc:
            return Answer(Outcome.RETRY, str(exc))  # it may be on its way from one file to the next
        if authorization is not None:
            self._session.headers["Authorization"] = authorization
        with self._wire.cut_after(self._timeout_s) as is_cut:
            try:
                for _ in range(MAX_REDIRECTS + 1):
                    response = self._session.post(
                        url,
                        data=body,
                        headers=HEADERS[protocol],
                        timeout=self._timeout_s,
                        allow_redirects=False,
                        stream=True,
                    )
                    text = _read_text(response)
                    if not 300 <= response.status_code < 400:
                        return replace(
                            self._classify(response, text),
                            status=response.status_code,
                            written=_written(response.headers.get(WRITTEN)),
                        )
                    target = urls.joined(url, response.headers.get("Location", ""))
                    if response.status_code not in (307, 308) or urls.origin(target) != urls.origin(url):
                        return Answer(
                            Outcome.DENIED,
                            _redirect(response.status_code, target),
                            status=response.status_code,
                        )
                    url = target
            except requests.exceptions.SSLError as exc:
                if not is_cut() and (words := _mistrust(exc)):
                    return Answer(Outcome.DENIED, f"{_shown(self.url)}: {words}")
                return Answer(Outcome.RETRY, f"{_shown(self.url)}: {_why(exc)}", unclear=True)
            except (requests.RequestException, HTTPError, OSError, ValueError) as exc:
                what = f"no whole answer within {self._timeout_s:g} s" if is_cut() else _why(exc)
                return Answer(Outcome.RETRY, f"{_shown(self.url)}: {what}", unclear=not _never_sent(exc))
        return Answer(Outcome.DENIED, f"{_shown(self.url)}: more than {MAX_REDIRECTS} redirects")

    def _classify(self, response: requests.Response, words: str) -> Answer:
        status = response.status_code
        outcome = _outcome(status)
        text = f"{_shown(self.url)} answered {status}"
        if outcome is Outcome.DENIED:
            text += f", {_ADVICE.get(status, _NO_ADVICE)}"
        if words:
            text += f": {words}"
        if outcome is not Outcome.RETRY:
            return Answer(outcome, text)
        wait_s = _retry_after(response.headers.get("Retry-After"), self._now())
        return Answer(outcome, text, unclear=True, retry_after_s=wait_s)


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome.ACCEPTED
    if status == 413:
        return Outcome.TOO_LARGE
    if status in _REFUSED:
        return Outcome.REFUSED
    return Outcome.DENIED if 300 <= status < 500 and status not in _PASSING else Outcome.RETRY


def _read_text(response: requests.Response) -> str:
    """The answer's first bytes as one harmless line. Its status stands, whatever happens here."""
    try:
        data: bytes = response.raw.read(_MAX_ANSWER)
    except (HTTPError, OSError, ValueError):
        data = b""
    finally:
        response.close()
    return _harmless(data.decode("utf-8", "replace"))


def _harmless(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."


def _shown(url: str) -> str:
    return _harmless(urls.shown(url))


def _redirect(status: int, target: str) -> str:
    advice = "if that is right, write it in --remote-write"
    return f"the endpoint answered {status} and points to {_shown(target)}: {advice}"


def _retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds to wait, from seconds or an HTTP date (RFC 9110, 10.2.3), at most an hour; None if it
    is neither."""
    if value is None:
        return None
    try:
        if value.strip().isascii() and value.strip().isdigit():
            wait_s = float(value)
        else:
            date = parsedate_to_datetime(value)  # in any of the three forms (RFC 9110, 5.6.7)
            wait_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait_s), _LONGEST_WAIT_S)


def _written(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,15}", value) else None


def _never_sent(exc: BaseException) -> bool:
    """Whether no connection came about, so that the body surely was not accepted."""
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return True
    cause = exc.args[0] if exc.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)


def _mistrust(exc: BaseException) -> str | None:
    """What is wrong with a certificate, ours or the server's; None if it is something else."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is not accepted: {_harmless(cause.verify_message)}; "
                "--ca-file names the CA that signed it"
            )
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE" in (cause.reason or "").upper():
            return f"the server does not accept our certificate ({cause.reason}): --client-cert, --client-key"
        inner = cause.reason if isinstance(cause, MaxRetryError) else None
        cause = inner or next((arg for arg in cause.args if isinstance(arg, BaseException)), None)
    return None


def _why(exc: BaseException) -> str:
    """An exception of requests or urllib3, without the objects that they print."""
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return "no connection within the time-out"
    if isinstance(exc, requests.exceptions.Timeout):
        return "no answer within the time-out"
    deepest: BaseException = exc
    while True:
        if isinstance(deepest, OSError) and deepest.strerror:
            return _harmless(deepest.strerror)
        inner: BaseException | None = deepest.reason if isinstance(deepest, MaxRetryError) else None
        inner = inner or next((arg for arg in deepest.args if isinstance(arg, BaseException)), None)
        inner = inner or deepest.__cause__
        if inner is None:
            return _harmless(str(deepest) or type(deepest).__name__)
        deepest = inner
