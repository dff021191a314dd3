"""ONE attempt to deliver a body, and its outcome. The pusher has the policy.

Strategy: every result of an HTTP request becomes one of five outcomes. A failed request may still have been
accepted (`unclear`), unless no byte of it was sent.

Four statuses concern the samples. Any other refusal concerns us or the endpoint: splitting the batch for
it would drop sample after sample because of a mistake in the configuration.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from rondo_tools import __version__, foreign, urls
from rondo_tools.errors import PushError
from rondo_tools.push.encoding import V1
from rondo_tools.push.encoding.body import HEADERS
from rondo_tools.push.http.causes import config_mistake, reason, tls_mistake
from rondo_tools.push.http.credentials import Credentials
from rondo_tools.push.http.session import Client, NoReplyError, Reply
from rondo_tools.push.model import Answer, Outcome

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
MAX_REDIRECTS = 3
_LONGEST_WAIT_S = 3600.0  # even if the server asks for more
_MAX_TEXT = 300  # characters of the server's text that are shown

_REFUSED = (400, 409, 422)
_TEMPORARY = (408, 425, 429)  # 4xx that ask for a repetition
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
_NO_ENDPOINT = "no endpoint does: is the URL the one for remote-write, and is there a login page before it?"
_NO_ADVICE = "which does not concern the samples; check the endpoint, and any proxy before it"


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
        known = credentials or Credentials()
        self.url = url
        self._credentials = known
        self._timeout_s = timeout_s
        self._now = now
        self._client = Client(
            {"User-Agent": f"rondo-push/{__version__}", **known.headers},
            proxies=known.proxies(url),
            ca_file=known.ca_file,
            client_cert=known.client_cert,
        )

    def close(self) -> None:
        self._client.close()

    def send(self, body: bytes, protocol: str = V1) -> Answer:
        """Send the body, encoded in `protocol`, once.

        Never raises for errors of the network or the peer.
        """
        try:
            authorization = self._credentials.authorization()
        except PushError as exc:
            return Answer(Outcome.RETRY, str(exc))  # the file may be in the middle of a change
        headers = dict(HEADERS[protocol])
        if authorization is not None:
            headers["Authorization"] = authorization
        url = self.url
        with self._client.within(self._timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                try:
                    reply = self._client.post(url, body, headers)
                except NoReplyError as exc:
                    return self._unanswered(exc)
                if not 300 <= reply.status < 400:
                    return self._classify(reply)
                target = urls.joined(url, reply.headers.get("Location", ""))
                if reply.status not in (307, 308) or urls.origin(target) != urls.origin(url):
                    return Answer(Outcome.DENIED, _redirect(reply.status, target), status=reply.status)
                url = target
        return Answer(Outcome.DENIED, f"{_shown(self.url)}: more than {MAX_REDIRECTS} redirects")

    def _classify(self, reply: Reply) -> Answer:
        outcome = _outcome(reply.status)
        text = f"{_shown(self.url)} answered {reply.status}"
        if outcome is Outcome.ACCEPTED and foreign.kind_of(reply.body) == foreign.HTML:
            # A login page, or a web interface, accepts everything and keeps nothing.
            return Answer(Outcome.DENIED, f"{text} with an HTML page; {_NO_ENDPOINT}", status=reply.status)
        if outcome is Outcome.DENIED:
            text += f", {_ADVICE.get(reply.status, _NO_ADVICE)}"
        if words := _harmless(reply.body.decode("utf-8", "replace")):
            text += f": {words}"
        is_retry = outcome is Outcome.RETRY
        return Answer(
            outcome,
            text,
            unclear=is_retry,
            retry_after_s=_retry_after(reply.headers.get("Retry-After"), self._now()) if is_retry else None,
            status=reply.status,
            written=_written(reply.headers.get(WRITTEN)),
        )

    def _unanswered(self, exc: NoReplyError) -> Answer:
        outcome, cause = Outcome.RETRY, exc.__cause__
        if exc.is_late:
            what = "whole answer" if exc.is_sent else "connection"
            words = f"no {what} within {self._timeout_s:g} s"
        elif exc.proxy_status not in (None, 200):
            words = f"the proxy answered {exc.proxy_status} to CONNECT"
            if _outcome(exc.proxy_status) is not Outcome.RETRY:
                outcome = Outcome.DENIED  # whatever the status is: the proxy has not seen a sample
        elif mistake := tls_mistake(cause) or config_mistake(cause):
            outcome, words = Outcome.DENIED, mistake
        else:
            words = reason(cause)
        is_unclear = exc.is_sent and outcome is Outcome.RETRY
        return Answer(outcome, f"{_shown(self.url)}: {_harmless(words)}", unclear=is_unclear)


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome.ACCEPTED
    if status == 413:
        return Outcome.TOO_LARGE
    if status in _REFUSED:
        return Outcome.REFUSED
    return Outcome.DENIED if 300 <= status < 500 and status not in _TEMPORARY else Outcome.RETRY


def _harmless(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."


def _shown(url: str) -> str:
    return _harmless(urls.shown(url))


def _redirect(status: int, target: str) -> str:
    advice = "if that is right, write it in --remote-write"
    return f"the endpoint answered {status} and points to {_shown(target)}: {advice}"


def _retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds to wait, from seconds or an HTTP date (RFC 9110, 10.2.3), at most an hour; None for any
    other value."""
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
