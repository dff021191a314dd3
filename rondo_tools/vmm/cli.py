"""rondo-vmm: the command line. It checks, wires, lets the VM live, and says how it ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import argh

from rondo_tools import command, stream, units
from rondo_tools.catalog import EXIT_REASONS, SERIES
from rondo_tools.errors import EX_SOFTWARE, EX_TEMPFAIL, UsageError, VmError
from rondo_tools.stream import Header
from rondo_tools.vmm import layout
from rondo_tools.vmm.accel.choose import CHOICES
from rondo_tools.vmm.destination import open_console, open_output
from rondo_tools.vmm.devices.virtio.disk import Disk, open_disk, temporary_disk
from rondo_tools.vmm.life import Account, live
from rondo_tools.vmm.machine import Config, Machine
from rondo_tools.vmm.output import Output
from rondo_tools.vmm.text import TextEncoder
from rondo_tools.vmm.waker import Waker

log = logging.getLogger(__name__)

DESCRIPTION = """\
Run one virtual machine and write its sixteen metrics, a tick a second, on the second.

  rondo-vmm --duration 45 | rondo-store vmm_metrics
  rondo-vmm --duration 45 | rondo-store vmm_metrics | rondo-push --remote-write URL
  rondo-vmm --duration 10 --text
  rondo-vmm --output unix:/run/rondo.sock --label rack=a1 --instance vm-1

The guest is built in: it needs no kernel image, and goes through four phases, cpu for 28 % of the
duration, idle 17 %, io 28 % and mixed for the rest. Then it powers itself off; a guest that does
not is ended 2 s later, at the deadline. The guest's console goes to standard error.

The metrics never hold up the VM: a reader that is slow or away costs memory for 600 ticks, then the
oldest are dropped, and counted. On SIGINT or SIGTERM the guest stops, and the last tick and the end
are still written; a second signal gives up on what was not delivered."""

EPILOG = """\
exit status of this command, beyond those below:
  0   the guest powered off or reset, its deadline passed, or a signal ended it
  1   the guest shut down by a triple fault
  70  KVM or the VMM failed
  75  not all ticks could be delivered
"""

MARGIN_MS = 2_000  # for a guest to power itself off, before the deadline does
DISK_BYTES = 8 << 20
MEMORY_STEP = 4096
EX_SHUTDOWN = 1  # a triple fault of the guest
LAST_LINES_S = 1.0  # for the console's last lines to be written


def _interval(text: str) -> int:
    ms = units.parse_duration(text)
    if ms < 10:
        raise UsageError(f"{text!r} is too short: 10ms is the shortest interval")
    return ms


def _memory(text: str) -> int:
    size = units.parse_size(text)
    if not layout.GUEST_END <= size <= layout.MEMORY_MAX or size % MEMORY_STEP:
        raise UsageError(
            f"{text!r} is not a multiple of 4K from {layout.GUEST_END >> 10}K to {layout.MEMORY_MAX >> 20}M"
        )
    return size


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is not NAME=VALUE")
    return name, value


@argh.arg(
    "--accel",
    choices=CHOICES,
    help="what runs the guest: kvm, soft (the unicorn emulator), or auto: kvm where it can be had",
)
@argh.arg(
    "--duration",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="how long the guest works, such as 45s or 2m (default: 45s)",
)
@argh.arg(
    "--interval",
    type=command.typed(_interval),
    metavar="TIME",
    help="time between ticks, which fall on its multiples (default: 1s)",
)
@argh.arg("--instance", type=str, metavar="NAME", help="the VM's name (default: host name and process id)")
@argh.arg(
    "--label",
    type=command.typed(_label),
    action="append",
    metavar="NAME=VALUE",
    help="a label for all series; may be given again",
)
@argh.arg(
    "--memory",
    type=command.typed(_memory),
    metavar="SIZE",
    help="guest memory in bytes, or with K, M, G (default: 16M)",
)
@argh.arg(
    "--disk",
    type=str,
    metavar="FILE",
    help="the guest's disk, whole sectors of 512 bytes; the built-in guest WRITES to it "
    "(default: a temporary one of 8M)",
)
@argh.arg(
    "--serial",
    type=str,
    metavar="FILE|-|none",
    help="where the guest's console goes; - is standard error",
)
@argh.arg(
    "--output",
    type=str,
    metavar="-|FILE|unix:PATH|tcp:HOST:PORT",
    help="where the stream goes; - is standard output; a FILE is written anew",
)
@argh.arg("--text", help="write readable lines instead of the stream")
@argh.arg(
    "--linger",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="how long to go on delivering after the VM's end (default: 30s)",
)
def rondo_vmm(
    *,
    accel: str = "auto",
    duration: int = 45_000,
    interval: int = 1_000,
    instance: str | None = None,
    label: list[tuple[str, str]] | None = None,
    memory: int = 16 << 20,
    disk: str | None = None,
    serial: str = "-",
    output: str = "-",
    text: bool = False,
    linger: int = 30_000,
) -> None:
    began_ms = time.time_ns() // 1_000_000
    header = _header(instance, label or [], interval, began_ms)
    encode = TextEncoder().encode if text else stream.encode
    target = _output(output, text=text)
    console = open_console(serial)
    with Waker() as waker:
        if console is not None:
            console.start(b"")
        say = _nowhere if console is None else console.put
        config = Config(accel, memory, duration)
        with Machine(config, _disk(disk), say, waker.wake) as machine:
            target.start(encode(header), waker.wake)
            account = live(
                machine,
                header,
                lambda tick: target.put(encode(tick)),
                waker,
                deadline_ms=duration + MARGIN_MS,
                is_over=lambda: text and target.gone,
            )
        target.finish(encode(stream.End(account.end.reason, account.t_ms)))
        if console is not None:
            console.finish()
            console.wait(LAST_LINES_S)
        _linger(target, waker, linger)
    _summarize(account)
    _raise_for(account, target, text=text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.Parser(prog="rondo-vmm", description=DESCRIPTION, epilog=EPILOG)
    parser.set_command(rondo_vmm)
    return command.run(parser, argv)


def _header(instance: str | None, labels: list[tuple[str, str]], interval_ms: int, start_ms: int) -> Header:
    """The session's header, checked as a reader of the stream will check it."""
    if instance is None:
        instance = f"{os.uname().nodename}-{os.getpid()}"
    bare = Header(instance, start_ms, (), interval_ms, SERIES)
    _check("--instance", bare)
    names = [name for name, _ in labels]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--label: {name!r} is given more than once")
    header = bare._replace(labels=tuple(sorted(labels)))
    _check("--label", header)
    return header


def _check(flag: str, header: Header) -> None:
    try:
        stream.encode(header)
    except ValueError as exc:
        raise UsageError(f"{flag}: {exc}") from exc


def _output(spec: str, *, text: bool) -> Output:
    if spec == "-" and not text and os.isatty(1):
        raise UsageError(
            "standard output is a terminal, and the stream is binary: pipe it, as in "
            "`rondo-vmm | rondo-store vmm_metrics`, or say --output FILE, or --text to read it"
        )
    if text and spec.startswith(("unix:", "tcp:")):
        raise UsageError(f"--text is for people; --output {spec} wants the stream")
    return open_output(spec)


def _disk(path: str | None) -> Disk:
    return temporary_disk(DISK_BYTES) if path is None else open_disk(path)


def _linger(output: Output, waker: Waker, linger_ms: int) -> None:
    """Wait until everything is delivered, until the time is up, or until a signal."""
    deadline = time.monotonic() + linger_ms / 1000
    while not output.done and (left := deadline - time.monotonic()) > 0:
        if waker.wait(left):
            return


def _summarize(account: Account) -> None:
    exits = ", ".join(
        f"{reason} {count}" for reason, count in zip(EXIT_REASONS, account.counters.exits, strict=True)
    )
    log.info(
        "lived %.1f s, %d ticks; exits: %s; ended by %s",
        account.lived_s,
        account.ticks,
        exits,
        account.end.reason,
    )


def _raise_for(account: Account, output: Output, *, text: bool) -> None:
    """Turn what went wrong into an exit status: the guest's misfortune before the output's."""
    undelivered = ""
    if not output.delivered and not (text and output.gone):
        what = f"{output.missing} of {account.ticks} ticks were" if output.missing else "the end was"
        undelivered = f"{output.name}: {what} not delivered"
    status = {"shutdown": EX_SHUTDOWN, "error": EX_SOFTWARE}.get(account.end.reason)
    if status is None and undelivered:
        raise VmError(undelivered, exit_code=EX_TEMPFAIL)
    if status is not None:
        if undelivered:
            log.warning("%s", undelivered)
        raise VmError(f"the VM ended by {account.end.reason}: {account.end.detail}", exit_code=status)


def _nowhere(data: bytes) -> None:
    """Where the console goes that nobody wants."""
