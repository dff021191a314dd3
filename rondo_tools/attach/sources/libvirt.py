"""libvirt's counters of its domains, and how their guests end, over a read-only connection.

Strategy: one call an interval asks for all domains, and does not wait for a busy one (NOWAIT). It can still
hang with libvirtd or a QEMU; then the call itself keeps that domain busy. So each call has a thread that is
never waited for. A call that takes too long is overtaken by the next one, which leaves out the busy domain.
A new VM is looked up at once, for its labels.

The UUID on the VMM's command line identifies the domain. Any user may write any UUID there: if two processes
have the same one, neither gets metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.libvirt_client import Client, Description, Event, Record
from rondo_tools.attach.sources.libvirt_domain import Domain, uuid_of
from rondo_tools.attach.sources.readings import Report
from rondo_tools.printable import printable

_log = logging.getLogger(__name__)

_DUE = 0.75  # of an interval
_MOST_CALLS = 4  # libvirtd accepts five at a time from one client
_SHORTEST_S, _LONGEST_S = 2.0, 30.0  # a call is overtaken after a time between these:
_OVERTAKEN = 3  # times the duration of the last one
_MOST_NEW = 50  # domains that one call looks up
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LAST_EVENT_S = 0.5  # the longest wait of a VM's end for libvirt's event

_LOOK, _ALL = "look", "all"  # kinds of calls
_SHARED = "another process has the same UUID"


class LibvirtAdapter:
    """Runs in the adapters' loop, except for the calls themselves."""

    name = "libvirt"
    brings = "blk_*, net_*"

    def __init__(self, uri: str, library: Any, *, warns: bool = True, proc: str = "/proc") -> None:
        self._client = Client(uri, library, self._on_event_of_thread)
        self._uri, self._warns, self._proc = uri, warns, proc
        self._loop: asyncio.AbstractEventLoop | None = None
        self._domains: dict[str, list[Domain]] = {}  # by UUID, in the order of discovery
        self._calls: dict[object, tuple[str, float]] = {}  # running calls: their kind and start
        self._interval_s = 1.0
        self._due_s = 0.0  # the monotonic time of the next call for all domains
        self._not_before_s, self._pause_s = 0.0, _FIRST_PAUSE_S
        self._took_s, self._answered_s = 0.0, time.monotonic()
        self._refused: tuple[str, str] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def label(self, target: Target, report: Report) -> None:
        if uuid := uuid_of(target.identity):
            report.labels, report.awaits_labels = {"uuid": uuid}, True

    async def follow(self, target: Target, report: Report) -> None:
        uuid = uuid_of(target.identity)
        if not uuid:
            report.refused = "its command line has no UUID: libvirt did not start it", ""
            await report.is_last.wait()
        elif not report.is_last.is_set():
            domain = Domain(uuid, target, report, self._proc)
            if not self._domains:
                self._loop, self._interval_s = asyncio.get_running_loop(), target.interval_s
                self._set_due(time.monotonic())
            self._domains.setdefault(uuid, []).append(domain)
            try:
                self._turn()
                await report.is_last.wait()
                if domain.is_known and self._refused is None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LAST_EVENT_S):
                            await domain.is_end_known.wait()
            finally:
                self._forget(domain)

    def _forget(self, domain: Domain) -> None:
        self._domains[domain.uuid].remove(domain)
        if not self._domains[domain.uuid]:
            del self._domains[domain.uuid]
        if not self._domains and self._timer is not None:
            self._timer.cancel()

    def _all(self) -> Iterable[Domain]:
        return (domain for domains in self._domains.values() for domain in domains)

    def _of(self, uuid: str) -> Domain | None:
        """The VM of a domain: the only running one, or one that has just died."""
        domains = self._domains.get(uuid, [])
        alive = [one for one in domains if one.is_alive]
        if len(alive) > 1:
            for one in alive:
                one.report.refused, one.report.awaits_labels = (_SHARED, ""), False
            return None
        return (*alive, *domains, None)[0]

    # Calls

    def _turn(self) -> None:
        """Start the calls that are due."""
        if self._loop is None or not self._domains:
            return
        now_s = time.monotonic()
        if self._is_stuck(now_s):
            self._refuse("it does not answer", "")
        may_begin = now_s >= self._not_before_s
        new = [one for one in self._all() if not one.is_asked][:_MOST_NEW]
        if new and may_begin and self._may_overtake(_LOOK, now_s):
            for one in new:
                one.is_asked = True
            self._begin(
                _LOOK, partial(self._client.look, [one.uuid for one in new], self._on_description_of_thread)
            )
        if now_s >= self._due_s:
            if may_begin and self._may_overtake(_ALL, now_s):
                self._begin(_ALL, self._client.all_stats)
            self._set_due(now_s)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._due_s - now_s, self._turn)

    def _set_due(self, now_s: float) -> None:
        self._due_s = now_s + (self._interval_s * _DUE - time.time()) % self._interval_s

    def _too_long_s(self) -> float:
        """The time after which a call is overtaken: libvirtd may be slow, or have many domains."""
        return min(max(_SHORTEST_S, _OVERTAKEN * self._took_s), _LONGEST_S)

    def _may_overtake(self, kind: str, now_s: float) -> bool:
        since_s = max((began_s for one, began_s in self._calls.values() if one == kind), default=0.0)
        return len(self._calls) < _MOST_CALLS and now_s - since_s > self._too_long_s()

    def _is_stuck(self, now_s: float) -> bool:
        since_s = min((began_s for _, began_s in self._calls.values()), default=now_s)
        return now_s - max(since_s, self._answered_s) > self._too_long_s()

    def _begin(self, kind: str, ask: Callable[..., list[Record]]) -> None:
        with_vcpus = any(one.needs_vcpus for one in self._all())
        call, began_s = object(), time.monotonic()
        self._calls[call] = kind, began_s

        def run() -> None:
            try:
                answer: list[Record] | RefusedError = ask(with_vcpus=with_vcpus)
            except RefusedError as exc:
                answer = exc
            except Exception as exc:  # even after a bug the call must end
                _log.exception("libvirt")
                answer = RefusedError(f"a bug of rondo-attach: {exc!r}")
            self._in_loop(self._end, call, answer)

        threading.Thread(target=run, name=f"libvirt {kind}", daemon=True).start()

    def _in_loop(self, function: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function, *values)

    def _end(self, call: object, answer: list[Record] | RefusedError) -> None:
        kind, began_s = self._calls.pop(call)
        now_s = time.monotonic()
        if isinstance(answer, RefusedError):
            self._refuse(answer.why, answer.needs)
            self._not_before_s = now_s + self._pause_s
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            for one in self._all():
                one.is_asked &= not one.report.awaits_labels
            return
        if kind == _ALL:
            self._took_s = now_s - began_s
        self._answered_s, self._pause_s = now_s, _FIRST_PAUSE_S
        if self._refused is not None and self._warns:
            _log.info("libvirt: %s answers again", self._uri)
        self._refused = None
        for record in answer:
            if (domain := self._of(record.uuid)) is not None:
                domain.take(record, began_s)
        self._turn()

    def _refuse(self, why: str, needs: str) -> None:
        for one in self._all():
            one.report.refused = why, needs
        if self._refused != (why, needs) and self._warns:
            needs = f" (needs {needs})" if needs else ""
            _log.warning("libvirt: %s: %s%s; trying again and again", self._uri, printable(why), needs)
        self._refused = why, needs

    # Results of other threads

    def _on_description_of_thread(self, description: Description) -> None:
        self._in_loop(self._on_description, description)

    def _on_description(self, description: Description) -> None:
        if (domain := self._of(description.uuid)) is not None:
            if description.refused:
                domain.report.refused = description.refused, ""
            else:
                domain.describe(description.xml)
            domain.report.awaits_labels = False

    def _on_event_of_thread(self, event: Event) -> None:
        self._in_loop(self._on_event, event)

    def _on_event(self, event: Event) -> None:
        dead = [one for one in self._domains.get(event.uuid, ()) if not one.is_alive and not one.is_over]
        domain = dead[0] if dead else self._of(event.uuid)
        if domain is not None:
            domain.take_event(event)
