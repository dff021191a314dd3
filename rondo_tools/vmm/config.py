"""The VM's configuration: checks the flags, opens the files, and chooses the board.

The modules for Linux are imported only if there is a --kernel, so that the built-in guest starts fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from rondo_tools.errors import UsageError
from rondo_tools.vmm import layout
from rondo_tools.vmm.boards.base import Board
from rondo_tools.vmm.boards.builtin import BuiltinBoard
from rondo_tools.vmm.devices.virtio.disk import Disk, open_disk, temporary_disk

if TYPE_CHECKING:
    from rondo_tools.vmm.keyboard import Keyboard

_BUILTIN_DURATION_MS = 45_000
BUILTIN_MARGIN_MS = 2_000  # between the end of the guest's work and the deadline
_BUILTIN_DISK_BYTES = 8 << 20
_BUILTIN_MEMORY = 16 << 20

LINUX_MARGIN_MS = 60_000  # the same, with the boot: half a minute on an emulated machine
LINUX_SILENT_S = 10.0  # Linux accesses a device in its first second, on an emulated machine too
_LINUX_MEMORY = 256 << 20

_STEP = 4096  # of memory
_READ_ONLY = ":ro"


class Flags(NamedTuple):
    """The flags that describe the guest; None if a flag was not given."""

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


class Config(NamedTuple):
    """A VM that can be built. Without a deadline it runs until it ends itself or a signal ends it.

    The guest should access a device within `silent_s`; None: this is not checked.
    """

    board: Board
    disks: list[Disk]
    deadline_ms: int | None
    keyboard: Keyboard | None = None
    silent_s: float | None = None


def configure(flags: Flags) -> Config:
    """Raises UsageError for flags that contradict each other, VmError for files that cannot be opened."""
    return _builtin(flags) if flags.kernel is None else _linux(flags, flags.kernel)


def _builtin(flags: Flags) -> Config:
    for flag, given in (
        ("--initramfs", flags.initramfs is not None),
        ("--cmdline", flags.command_line is not None),
        ("--cmdline-only", flags.command_line_only),
        ("--cpus", flags.cpus is not None),
        ("--console", flags.console),
    ):
        if given:
            raise UsageError(f"{flag} is for Linux: give --kernel too")
    if len(flags.disks) > 1:
        raise UsageError("--disk: the built-in guest has one disk; give --kernel to use more")
    memory = _memory(flags.memory, _BUILTIN_MEMORY, layout.GUEST_END)
    for spec in flags.disks:
        if spec.endswith(_READ_ONLY):
            raise UsageError(f"--disk {spec}: the built-in guest writes to its disk")
    disks = [open_disk(path) for path in flags.disks] or [temporary_disk(_BUILTIN_DISK_BYTES)]
    duration_ms = flags.duration_ms or _BUILTIN_DURATION_MS
    board = BuiltinBoard(flags.accelerator, memory, duration_ms)
    return Config(board, disks, duration_ms + BUILTIN_MARGIN_MS)


def _linux(flags: Flags, kernel: str) -> Config:
    if flags.accelerator == "soft":
        raise UsageError("--accel soft runs the built-in guest only; --kernel needs KVM")

    from rondo_tools.vmm.boards.pc import CPUS_MAX, DISKS_MAX, PcBoard
    from rondo_tools.vmm.boot import linux
    from rondo_tools.vmm.keyboard import Keyboard

    cpus = 1 if flags.cpus is None else flags.cpus
    if not 1 <= cpus <= CPUS_MAX:
        raise UsageError(f"--cpus {cpus}: a guest has 1 to {CPUS_MAX}")
    if len(flags.disks) > DISKS_MAX:
        raise UsageError(f"--disk: a guest has {DISKS_MAX} at most")
    memory = _memory(flags.memory, _LINUX_MEMORY, layout.PC_MEMORY_MIN)
    command_line = _command_line(flags, linux.DEFAULT_COMMAND_LINE)
    guest = linux.read(kernel, flags.initramfs, command_line, memory)
    keyboard = Keyboard() if flags.console else None
    disks = _open_disks(flags.disks)
    deadline_ms = None if flags.duration_ms is None else flags.duration_ms + LINUX_MARGIN_MS
    return Config(PcBoard(guest, memory, cpus, keyboard), disks, deadline_ms, keyboard, LINUX_SILENT_S)


def _open_disks(specs: Sequence[str]) -> list[Disk]:
    with ExitStack() as opened:
        disks = [
            opened.enter_context(
                open_disk(spec.removesuffix(_READ_ONLY), read_only=spec.endswith(_READ_ONLY))
            )
            for spec in specs
        ]
        opened.pop_all()  # all are open: the machine owns them now
    return disks


def _command_line(flags: Flags, default: str) -> str:
    own = flags.command_line or ""
    if flags.command_line_only:
        return own
    words = [default]
    if flags.duration_ms is not None:
        words.append(f"workload_duration={-(-flags.duration_ms // 1000)}")
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
