"""A machine: one VM with the threads that run its vCPUs.

Strategy: a board (`boards`) builds the VM; the machine runs it. The constructor builds everything, and
leaving the context frees it in reverse order. The VM is over when the last vCPU's thread has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from rondo_tools.vmm.boards.base import Board
from rondo_tools.vmm.counters import Snapshot
from rondo_tools.vmm.cpu import VcpuTimes
from rondo_tools.vmm.devices.virtio.disk import Disk
from rondo_tools.vmm.vcpu import End, RunLoop

_log = logging.getLogger(__name__)


class Machine:
    """A VM that is built but not started. A context manager: leaving it ends the guest and frees everything.

    The machine owns `disks`. `console` gets the guest's output, and `on_end` is called once after the
    guest has ended. Both are called in a vCPU's thread and must not block.
    """

    def __init__(
        self,
        board: Board,
        disks: Sequence[Disk],
        console: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._owned = ExitStack()
        self._on_end = on_end
        self._over = threading.Event()
        try:
            for disk in disks:
                self._owned.callback(disk.close)
            self._assembly = board.assemble(self._owned, disks, console)
        except BaseException:
            self._owned.close()
            raise
        self._times = VcpuTimes(len(self._assembly.loops))
        self._began_ns = time.process_time_ns()
        self._running = len(self._assembly.loops)
        self._counting = threading.Lock()  # guards _running
        self._threads = [
            threading.Thread(target=self._run, args=(number, loop), name=f"vcpu {number}", daemon=True)
            for number, loop in enumerate(self._assembly.loops)
        ]

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            while thread.is_alive():
                self.stop("signal")
                thread.join(0.05)
        self._owned.close()

    def over(self) -> bool:
        """Whether the guest has ended: the counters are final, and `end` is set."""
        return self._over.is_set()

    @property
    def end(self) -> End | None:
        """The end reason and detail; None while the VM runs."""
        return self._assembly.ending.end

    def snapshot(self) -> Snapshot:
        """All counters; the CPU times are read one after another."""
        times = self._times.read()
        return self._assembly.counters.snapshot()._replace(
            vcpu_cpu_ns=times.cpu_ns,
            vcpu_wait_ns=times.wait_ns,
            vmm_cpu_ns=time.process_time_ns() - self._began_ns,
        )

    def start(self) -> None:
        self._began_ns = time.process_time_ns()
        for thread in self._threads:
            thread.start()

    def stop(self, reason: str) -> None:
        """End the guest for `reason`, from any thread, without waiting.

        Call again if `over` does not follow within a few ms: a stop that arrives while the guest is being
        entered may be lost (see `accel.base.Vcpu.stop`). The first reason is kept.
        """
        self._assembly.ending.finish(reason)

    def _run(self, number: int, loop: RunLoop) -> None:
        self._times.begin(number)
        try:
            loop.run()
        except Exception:
            _log.exception("the VMM failed; please report it")
        finally:
            self._times.end(number)
            with self._counting:
                self._running -= 1
                last = not self._running
            if last:
                self._assembly.flush()
                self._over.set()
                self._on_end()
