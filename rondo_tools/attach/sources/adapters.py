"""Runs adapters, which ask VMMs for metrics that the kernel does not have, in a thread of its own.

Strategy: an adapter follows one VM in a task, and writes readings into its report. All tasks share one thread
with an event loop, so a VMM that does not answer delays no tick and no other VM. A failure is retried, soon
while a VM is young, and ever later. A VMM's data is bounded in size and number, and checked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from rondo_tools.attach.naming import Identity, PathTemplate, fields
from rondo_tools.attach.sources.base import LateSource
from rondo_tools.attach.sources.readings import AdapterSource, Report
from rondo_tools.catalog import Series
from rondo_tools.printable import printable
from rondo_tools.ratelimit import RateLimit

_log = logging.getLogger(__name__)
logging.getLogger("asyncio").setLevel(logging.WARNING)  # it logs its selector at debug level

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 30.0
_CLOSE_S = 5.0  # time for the thread to end
_SPREAD = 0.6180339887  # spreads consecutive process ids over a second


class RefusedError(Exception):
    """An adapter cannot ask its VM: the reason, and what is needed."""

    def __init__(self, why: str, needs: str = "") -> None:
        super().__init__(why)
        self.why, self.needs = why, needs


class Target(NamedTuple):
    """A VM to follow."""

    pid: int
    identity: Identity
    interval_s: float
    since_ms: int = 0  # start of the session
    has: Sequence[Series] = ()  # series of other sources

    def path(self, template: PathTemplate) -> str:
        """Raises RefusedError."""
        try:
            return template.path(fields(self.identity, self.pid))
        except ValueError as exc:
            raise RefusedError(str(exc)) from None

    def until_due_s(self, now_s: float) -> float:
        """Time until it is to be asked: once an interval, in the second half, VMs spread over it."""
        offset_s = self.interval_s * (0.5 + 0.4 * (self.pid * _SPREAD % 1))
        return (offset_s - now_s) % self.interval_s


class Adapter(Protocol):
    """One way to ask VMMs."""

    name: str
    brings: str  # its series, for messages

    async def follow(self, target: Target, report: Report) -> None:
        """Write a VM's readings into `report`. When it returns, or raises OSError, EOFError or RefusedError,
        it is called again: after a pause, or for the last time when the VM is dead.
        """


@runtime_checkable
class Labelling(Protocol):
    """An adapter that knows labels too."""

    def label(self, target: Target, report: Report) -> None:
        """Report the labels that are known now, and whether more may come. Called in the watcher's thread, so
        it must not block.
        """


class Adapters:
    """The adapters' thread. Its methods are for other threads."""

    def __init__(self, adapters: Sequence[Adapter], interval_s: float, *, warns: bool = True) -> None:
        """It `warns` of refusals, unless the caller reads the reports."""
        self._adapters, self._warns = adapters, warns
        self._interval_s = interval_s
        self._tasks: dict[Report, asyncio.Task[None]] = {}  # used by the thread only
        self._warnings = RateLimit(_log, burst=10, window_s=60.0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="adapters", daemon=True)
        self._thread.start()

    def follow(
        self,
        pid: int,
        identity: Identity,
        since_ms: int = 0,
        *,
        begins_at_0: bool,
        has: Sequence[Series] = (),
    ) -> list[AdapterSource]:
        """Let all adapters follow a VM; its late sources."""
        target = Target(pid, identity, self._interval_s, since_ms, has)
        sources = []
        for adapter in self._adapters:
            report = Report()
            if isinstance(adapter, Labelling):
                adapter.label(target, report)
            sources.append(AdapterSource(adapter.name, adapter.brings, report, begins_at_0=begins_at_0))
            self._loop.call_soon_threadsafe(self._begin, adapter, target, report)
        return sources

    def hurry(self, sources: Sequence[LateSource]) -> None:
        """Their VM is dead: read the last values now."""
        for source in sources:
            assert isinstance(source, AdapterSource)
            self._loop.call_soon_threadsafe(source.report.is_last.set)

    def forget(self, sources: Sequence[LateSource]) -> None:
        """Stop following their VM."""
        for source in sources:
            assert isinstance(source, AdapterSource)
            self._loop.call_soon_threadsafe(self._cancel, source.report)

    def reports(self) -> list[Report]:
        """The reports of all VMs."""
        return list(self._tasks)

    def close(self) -> None:
        """Stop following all VMs, and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._cancel_all())
        finally:
            self._loop.close()

    async def _cancel_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, adapter: Adapter, target: Target, report: Report) -> None:
        self._tasks[report] = self._loop.create_task(self._follow(adapter, target, report))

    def _cancel(self, report: Report) -> None:
        self._tasks.pop(report).cancel()

    async def _follow(self, adapter: Adapter, target: Target, report: Report) -> None:
        pause_s = _FIRST_PAUSE_S / 2
        while True:
            before, is_last = report.reading, report.is_last.is_set()
            try:
                await adapter.follow(target, report)
            except RefusedError as exc:
                self._refuse(adapter, target, report, exc.why, exc.needs)
            except PermissionError as exc:
                needs = "permission on it for rondo-attach's user, see docs/attach.md"
                self._refuse(adapter, target, report, f"{exc.filename}: {exc.strerror}", needs)
            except FileNotFoundError as exc:
                report.refused = f"{exc.filename} does not exist", ""
            except (OSError, EOFError) as exc:
                report.refused = str(exc) or "it closed the connection", ""
            except Exception:  # an error of one VM must not end the others' tasks
                _log.exception("%s: %s", target.identity.name, adapter.name)
                report.refused = "a bug of rondo-attach, see its log", ""
            if is_last:
                report.is_done = True
                return
            pause_s = _FIRST_PAUSE_S if report.reading is not before else min(pause_s * 2, _LONGEST_PAUSE_S)
            await report.dies_within(pause_s)

    def _refuse(self, adapter: Adapter, target: Target, report: Report, why: str, needs: str) -> None:
        if report.refused != (why, needs):
            report.refused = why, needs
            if not self._warns:
                return
            text = f"{printable(why)}{f' (needs {needs})' if needs else ''}"
            self._warnings.warn(adapter.name, "%s: no %s: %s", target.identity.name, adapter.name, text)
