"""Which VM the flags ask for: the built-in guest's, or a PC that boots Linux. Checks before it makes.

What Linux needs is imported when it is asked for: the built-in guest is to start fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from rondo_tools.errors import UsageError
from rondo_tools.vmm import layout
from rondo_tools.vmm.builtin import Builtin
from rondo_tools.vmm.devices.virtio.disk import Disk, open_disk, temporary_disk
from rondo_tools.vmm.machine import Plan

if TYPE_CHECKING:
    from rondo_tools.vmm.keyboard import Keyboard

_BUILTIN_DURATION_MS = 45_000
BUILTIN_MARGIN_MS = 2_000  # for the guest to power itself off, before the deadline does
_BUILTIN_DISK_BYTES = 8 << 20
_BUILTIN_MEMORY = 16 << 20

LINUX_MARGIN_MS = 60_000  # the same, and to boot: on an emulated machine that may take half a minute
LINUX_SILENT_S = 10.0  # its first access to a device comes in the first second, on an emulated machine too
_LINUX_MEMORY = 256 << 20

_STEP = 4096  # of memory
_READ_ONLY = ":ro"


class Wanted(NamedTuple):
    """What the flags say of the guest; None where they say nothing."""

    accelerator: str
    duration_ms: int | None
    memory: int | None
    disks: Sequence[str]
    kernel: str | None = None
    initramfs: str | None = None
    command_line: str | None = None
    command_line_only: bool = False
    cpus: int | None = None
    console: bool = False


class Choice(NamedTuple):
    """A VM that can be made. Without a deadline it lives until it ends itself, or a signal comes.

    After `silent_s` a guest should have given a sign of life; None: it is not watched for one.
    """

    plan: Plan
    disks: list[Disk]
    deadline_ms: int | None
    keyboard: Keyboard | None = None
    silent_s: float | None = None


def choose(wanted: Wanted) -> Choice:
    """Raises UsageError for flags that do not go together, VmError for files that cannot be had."""
    return _builtin(wanted) if wanted.kernel is None else _linux(wanted, wanted.kernel)


def _builtin(wanted: Wanted) -> Choice:
    for flag, given in (
        ("--initramfs", wanted.initramfs is not None),
        ("--cmdline", wanted.command_line is not None),
        ("--cmdline-only", wanted.command_line_only),
        ("--cpus", wanted.cpus is not None),
        ("--console", wanted.console),
    ):
        if given:
            raise UsageError(f"{flag} is for Linux: name its --kernel too")
    if len(wanted.disks) > 1:
        raise UsageError("--disk: the built-in guest has one; a --kernel may have more")
    memory = _memory(wanted.memory, _BUILTIN_MEMORY, layout.GUEST_END)
    for spec in wanted.disks:
        if spec.endswith(_READ_ONLY):
            raise UsageError(f"--disk {spec}: the built-in guest writes to its disk")
    disks = [open_disk(path) for path in wanted.disks] or [temporary_disk(_BUILTIN_DISK_BYTES)]
    duration_ms = wanted.duration_ms or _BUILTIN_DURATION_MS
    plan = Builtin(wanted.accelerator, memory, duration_ms)
    return Choice(plan, disks, duration_ms + BUILTIN_MARGIN_MS)


def _linux(wanted: Wanted, kernel: str) -> Choice:
    if wanted.accelerator == "soft":
        raise UsageError("--accel soft runs the built-in guest only; --kernel needs KVM")

    from rondo_tools.vmm.boot import linux
    from rondo_tools.vmm.keyboard import Keyboard
    from rondo_tools.vmm.pc import CPUS_MAX, DISKS_MAX, Pc

    cpus = 1 if wanted.cpus is None else wanted.cpus
    if not 1 <= cpus <= CPUS_MAX:
        raise UsageError(f"--cpus {cpus}: a guest has 1 to {CPUS_MAX}")
    if len(wanted.disks) > DISKS_MAX:
        raise UsageError(f"--disk: a guest has {DISKS_MAX} at most")
    memory = _memory(wanted.memory, _LINUX_MEMORY, layout.PC_MEMORY_MIN)
    command_line = _command_line(wanted, linux.DEFAULT_COMMAND_LINE)
    guest = linux.read(kernel, wanted.initramfs, command_line, memory)
    keyboard = Keyboard() if wanted.console else None
    disks = _open_disks(wanted.disks)
    deadline_ms = None if wanted.duration_ms is None else wanted.duration_ms + LINUX_MARGIN_MS
    return Choice(Pc(guest, memory, cpus, keyboard), disks, deadline_ms, keyboard, LINUX_SILENT_S)


def _open_disks(specs: Sequence[str]) -> list[Disk]:
    with ExitStack() as opened:
        disks = [
            opened.enter_context(
                open_disk(spec.removesuffix(_READ_ONLY), read_only=spec.endswith(_READ_ONLY))
            )
            for spec in specs
        ]
        opened.pop_all()  # all are there: the machine's from now on
    return disks


def _command_line(wanted: Wanted, default: str) -> str:
    own = wanted.command_line or ""
    if wanted.command_line_only:
        return own
    words = [default]
    if wanted.duration_ms is not None:
        words.append(f"workload_duration={-(-wanted.duration_ms // 1000)}")
    return " ".join([*words, own]).rstrip()


def _memory(size: int | None, default: int, least: int) -> int:
    if size is None:
        return default
    if not least <= size <= layout.MEMORY_MAX or size % _STEP:
        raise UsageError(
            f"--memory: {size} bytes are not a multiple of 4K from {_short(least)} "
            f"to {_short(layout.MEMORY_MAX)}"
        )
    return size


def _short(size: int) -> str:
    return f"{size >> 20}M" if size >= 1 << 20 else f"{size >> 10}K"
