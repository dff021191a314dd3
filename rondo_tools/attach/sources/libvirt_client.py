"""Calls of libvirt over a read-only connection, by the distribution's python3-libvirt.

Strategy: every call may block as long as libvirtd or a domain's QEMU hangs: call from a thread that is never
waited for. The next call opens a lost connection again. Events arrive in a thread of their own, because
libvirt has its own event loop. Errors of libvirt are raised as RefusedError.

From libvirt's documentation: libvirt-domain (virConnectGetAllDomainStats, virDomainEventType).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from rondo_tools.attach.sources.adapters import RefusedError

_PERMISSION = "permission to read from libvirt, see docs/attach.md"
_OPENING_S = 5.0  # the longest wait of a call for another one that opens the connection


class Record(NamedTuple):
    """libvirt's counters of a domain. `run` changes each time that the domain is started."""

    uuid: str
    run: int
    stats: Mapping[str, object]


class Description(NamedTuple):
    """A domain's XML, or the reason why there is none."""

    uuid: str
    xml: str
    refused: str = ""


class Event(NamedTuple):
    """A change of a domain: it `is_over`, or is about to end for a `reason`; "" if it continues."""

    uuid: str
    reason: str
    is_over: bool = False


class Client:
    """`on_event` is called in a thread of libvirt's events."""

    def __init__(self, uri: str, library: Any, on_event: Callable[[Event], None]) -> None:
        self._uri, self._library, self._on_event = uri, library, on_event
        self._connection: Any = None
        self._callback = -1  # for the connection's events
        self._opening = threading.Lock()
        self._has_events = False

    def all_stats(self, *, with_vcpus: bool) -> list[Record]:
        """The counters of all running domains; of a busy one those that libvirt has at hand."""
        nowait = self._library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        active = self._library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        with self._connected() as connection:
            return _records(connection.getAllDomainStats(self._groups(with_vcpus), active | nowait))

    def look(
        self, uuids: Sequence[str], tell: Callable[[Description], None], *, with_vcpus: bool
    ) -> list[Record]:
        """Call `tell` with the description of each domain, then return their counters."""
        nowait = self._library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        with self._connected() as connection:
            domains = []
            for uuid in uuids:
                try:
                    domain = connection.lookupByUUIDString(uuid)
                    tell(Description(uuid, domain.XMLDesc(0)))
                    domains.append(domain)
                except self._library.libvirtError as exc:
                    if not self._is_alive(connection):
                        raise
                    is_unknown = exc.get_error_code() == self._library.VIR_ERR_NO_DOMAIN
                    tell(Description(uuid, "", "libvirt does not know it" if is_unknown else str(exc)))
            if not domains:
                return []
            return _records(connection.domainListGetStats(domains, self._groups(with_vcpus), nowait))

    def _groups(self, with_vcpus: bool) -> int:
        library = self._library
        groups: int = library.VIR_DOMAIN_STATS_BLOCK | library.VIR_DOMAIN_STATS_INTERFACE
        return groups | library.VIR_DOMAIN_STATS_VCPU if with_vcpus else groups

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            connection = self._open()
            try:
                yield connection
            except self._library.libvirtError:
                if not self._is_alive(connection):
                    self._drop(connection)
                raise
        except self._library.libvirtError as exc:
            raise RefusedError(str(exc), _PERMISSION if self._is_denied(exc) else "") from None

    def _open(self) -> Any:
        if not self._opening.acquire(timeout=_OPENING_S):
            raise RefusedError("it does not answer")
        try:
            if self._connection is None:
                self._begin_events()
                # rondo-attach must not start a session's libvirtd.
                os.environ["LIBVIRT_AUTOSTART"] = "0"
                connection = self._library.openReadOnly(self._uri)
                kind = self._library.VIR_DOMAIN_EVENT_ID_LIFECYCLE
                self._callback = connection.domainEventRegisterAny(None, kind, self._on_lifecycle, None)
                self._connection = connection
            return self._connection
        finally:
            self._opening.release()

    def _is_alive(self, connection: Any) -> bool:
        try:
            return bool(connection.isAlive() == 1)
        except self._library.libvirtError:
            return False

    def _drop(self, connection: Any) -> None:
        """Drop a lost connection; calls of other threads on it fail too."""
        with self._opening:
            if self._connection is connection:
                self._connection = None
                with suppress(self._library.libvirtError):  # libvirtd is out of reach
                    connection.domainEventDeregisterAny(self._callback)
                with suppress(self._library.libvirtError):
                    connection.close()

    def _is_denied(self, error: Any) -> bool:
        library, code = self._library, error.get_error_code()
        if code == library.VIR_ERR_SYSTEM_ERROR:
            return bool(error.get_int1() in (errno.EACCES, errno.EPERM))
        return code in (
            library.VIR_ERR_AUTH_CANCELLED,
            library.VIR_ERR_AUTH_FAILED,
            library.VIR_ERR_AUTH_UNAVAILABLE,
            library.VIR_ERR_ACCESS_DENIED,
        )

    # Events

    def _begin_events(self) -> None:
        """Start libvirt's event loop, once in a process, before the first connection."""
        if not self._has_events:
            self._library.registerErrorHandler(_ignore, None)  # the default writes to standard error
            self._library.virEventRegisterDefaultImpl()
            threading.Thread(target=self._run_events, name="libvirt events", daemon=True).start()
            self._has_events = True

    def _run_events(self) -> None:
        """Run the event loop as long as the process. This frame keeps the connection open when Python exits:
        closing it would wait for libvirtd.
        """
        with suppress(self._library.libvirtError):
            while True:
                self._library.virEventRunDefaultImpl()

    def _on_lifecycle(self, _connection: Any, domain: Any, kind: int, detail: int, _opaque: object) -> None:
        library, uuid = self._library, domain.UUIDString()
        if kind == library.VIR_DOMAIN_EVENT_SHUTDOWN and detail == library.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST:
            self._on_event(Event(uuid, "poweroff"))
        elif kind == library.VIR_DOMAIN_EVENT_SHUTDOWN and detail == library.VIR_DOMAIN_EVENT_SHUTDOWN_HOST:
            self._on_event(Event(uuid, "signal"))
        elif kind == library.VIR_DOMAIN_EVENT_CRASHED:  # the guest, not QEMU
            self._on_event(Event(uuid, "shutdown"))
        elif kind == library.VIR_DOMAIN_EVENT_RESUMED:
            self._on_event(Event(uuid, ""))
        elif kind == library.VIR_DOMAIN_EVENT_STOPPED:
            self._on_event(Event(uuid, "", is_over=True))


def _records(answer: Sequence[tuple[Any, Mapping[str, object]]]) -> list[Record]:
    return [Record(domain.UUIDString(), domain.ID(), stats) for domain, stats in answer]


def _ignore(_context: object, _error: object) -> None:
    """Do nothing: errors are also raised."""
