"""Asks VMMs for what the kernel does not know: in a thread of its own, so that the tick never waits.

Strategy: an adapter follows one VM in a task, and puts readings into its report. All tasks share one thread
with an event loop, so a VMM that does not answer holds up nobody. What fails is tried again, soon while a
VM is young, ever more seldom later. Whatever a VMM sends is bounded in size and in number, and checked.
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
logging.getLogger("asyncio").setLevel(logging.WARNING)  # it says which system call it waits with

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 30.0
_CLOSE_S = 5.0  # how long the thread may take to end
_SPREAD = 0.6180339887  # of consecutive process ids over a second


class RefusedError(Exception):
    """A VM that an adapter cannot ask: why, and what is needed."""

    def __init__(self, why: str, needs: str = "") -> None:
        super().__init__(why)
        self.why, self.needs = why, needs


class Target(NamedTuple):
    """A VM to follow."""

    pid: int
    identity: Identity
    interval_s: float
    since_ms: int = 0  # when the session began
    has: Sequence[Series] = ()  # what is known without adapters

    def path(self, template: PathTemplate) -> str:
        """Raises RefusedError."""
        try:
            return template.path(fields(self.identity, self.pid))
        except ValueError as exc:
            raise RefusedError(str(exc)) from None

    def until_due_s(self, now_s: float) -> float:
        """How long until it is to be asked: once an interval, in its last half, not all VMs at once."""
        offset_s = self.interval_s * (0.5 + 0.4 * (self.pid * _SPREAD % 1))
        return (offset_s - now_s) % self.interval_s


class Adapter(Protocol):
    """One way to ask VMMs."""

    name: str
    brings: str  # which series, for people

    async def follow(self, target: Target, report: Report) -> None:
        """Report of a VM. When it returns, or raises OSError, EOFError or RefusedError, it is called again:
        after a pause, or for the last time when the VM is dead.
        """


@runtime_checkable
class Labelling(Protocol):
    """An adapter that knows labels too."""

    def label(self, target: Target, report: Report) -> None:
        """Report the labels that are known at once, and whether more may come. The caller is not the thread,
        and must not wait.
        """


class Adapters:
    """The thread. Call it from another."""

    def __init__(self, adapters: Sequence[Adapter], interval_s: float, *, warns: bool = True) -> None:
        """It `warns` of what is refused, unless somebody looks at the reports."""
        self._adapters, self._warns = adapters, warns
        self._interval_s = interval_s
        self._tasks: dict[Report, asyncio.Task[None]] = {}  # the thread's own
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
        """Ask for a VM by all ways that there are."""
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
        """Their VM is dead: what can still be read is to be read now."""
        for source in sources:
            assert isinstance(source, AdapterSource)
            self._loop.call_soon_threadsafe(source.report.is_last.set)

    def forget(self, sources: Sequence[LateSource]) -> None:
        """Their VM is gone."""
        for source in sources:
            assert isinstance(source, AdapterSource)
            self._loop.call_soon_threadsafe(self._cancel, source.report)

    def reports(self) -> list[Report]:
        """What there is of all VMs."""
        return list(self._tasks)

    def close(self) -> None:
        """Let go of all VMs."""
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
                needs = "permission on it for rondo-attach's user: docs/attach.md says how"
                self._refuse(adapter, target, report, f"{exc.filename}: {exc.strerror}", needs)
            except FileNotFoundError as exc:
                report.refused = f"{exc.filename} is not there", ""
            except (OSError, EOFError) as exc:
                report.refused = str(exc) or "it closed the connection", ""
            except Exception:  # one VM's is not to end the others'
                _log.exception("%s: %s", target.identity.name, adapter.name)
                report.refused = "this is a bug of rondo-attach: its log has more", ""
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
