"""The command line of rondo-vmm: checks the flags, runs the VM and reports how it ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import argh

from rondo_tools import clock, command, stream, units
from rondo_tools.catalog import SERIES
from rondo_tools.errors import EX_SOFTWARE, EX_TEMPFAIL, VmError
from rondo_tools.producer.destination import open_stream
from rondo_tools.producer.flags import checked_header, parse_label
from rondo_tools.producer.text import TextEncoder
from rondo_tools.stream import Header
from rondo_tools.vmm import cpu
from rondo_tools.vmm.accel.choose import CHOICES
from rondo_tools.vmm.config import Config, Flags, configure
from rondo_tools.vmm.console import open_console
from rondo_tools.vmm.machine import Machine
from rondo_tools.vmm.output import NOTICES, TEXT_NOTICES, OutputThread
from rondo_tools.vmm.run import Summary, run_vm
from rondo_tools.vmm.wakeup import Wakeup

log = logging.getLogger(__name__)

DESCRIPTION = """\
Run one virtual machine and write its metrics, a tick a second, on the second.

  rondo-vmm --duration 45 | rondo-store vmm_metrics
  rondo-vmm --duration 45 | rondo-store vmm_metrics | rondo-push --remote-write URL
  rondo-vmm --duration 10 --text
  rondo-vmm --output unix:/run/rondo.sock --label rack=a1 --instance vm-1
  rondo-vmm --kernel vmlinuz --initramfs initrd.img --disk root.img --output vm.stream --console

Without --kernel a built-in guest runs, which needs no kernel image. It has four phases: cpu for 28 %
of the duration, idle 17 %, io 28 % and mixed for the rest. Then it powers itself off; a deadline 2 s
later ends it if it does not. With --kernel the guest is Linux, on KVM; the deadline is 60 s after
--duration, if that is given. The guest's console goes to standard error.

The metrics never delay the VM: while a reader is slow or absent, the last 600 ticks are kept; older
ones are dropped and counted. SIGINT, SIGTERM or SIGHUP (not under nohup) stops the guest; the last tick
and the end are still written. A second signal gives up on undelivered ticks."""

EPILOG = """\
exit status of this command, beyond those below:
  0   the guest powered off or reset, its deadline passed, or a signal ended it
  1   the guest shut down by a triple fault
  70  KVM or the VMM failed, or a Linux guest gave no sign of life
  75  not all ticks could be delivered
"""

EX_SHUTDOWN = 1  # the guest's triple fault
LAST_LINES_S = 1.0  # time to write the console's last lines


@argh.arg(
    "--accel",
    choices=CHOICES,
    help="the accelerator: kvm, soft (the unicorn emulator), or auto: kvm if it is available",
)
@argh.arg(
    "--duration",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="how long the guest works, such as 45s or 2m (default: 45s; Linux gets it as "
    "workload_duration=SECONDS on its command line, and has no deadline by default)",
)
@argh.arg(
    "--interval",
    type=command.typed(partial(units.parse_duration, shortest_ms=10)),
    metavar="TIME",
    help="time between ticks, which fall on its multiples (default: 1s)",
)
@argh.arg("--instance", type=str, metavar="NAME", help="the VM's name (default: host name and process id)")
@argh.arg(
    "--label",
    type=command.typed(parse_label),
    action="append",
    metavar="NAME=VALUE",
    help="a label for all series; repeatable",
)
@argh.arg(
    "--memory",
    type=command.typed(units.parse_size),
    metavar="SIZE",
    help="guest memory in bytes, or with K, M, G (default: 16M; for Linux 256M)",
)
@argh.arg(
    "--disk",
    type=str,
    action="append",
    metavar="FILE[:ro]",
    help="a disk, whole sectors of 512 bytes; the built-in guest WRITES to it (default: a temporary "
    "one of 8M); for Linux repeatable, and read-only with :ro (default: none)",
)
@argh.arg("--kernel", type=str, metavar="FILE", help="boot this Linux: a bzImage, or a vmlinux for x86-64")
@argh.arg("--initramfs", type=str, metavar="FILE", help="the initial root file system of Linux")
@argh.arg("--cmdline", type=str, metavar="TEXT", help="text to append to the kernel's command line")
@argh.arg("--cmdline-only", help="use --cmdline alone, without our defaults")
@argh.arg("--cpus", type=int, metavar="N", help="processors of a Linux guest (default: 1)")
@argh.arg(
    "--console",
    help="make standard input the keyboard of Linux; on a terminal Ctrl-A x ends the VM",
)
@argh.arg(
    "--serial",
    type=str,
    metavar="FILE|-|none",
    help="the output of the guest's console; - is standard error",
)
@argh.arg(
    "--output",
    type=str,
    metavar="-|FILE|unix:PATH|tcp:HOST:PORT",
    help="the output of the stream; - is standard output; a FILE is overwritten",
)
@argh.arg("--text", help="write readable lines instead of the stream")
@argh.arg(
    "--linger",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="how long to keep delivering after the VM's end (default: 30s)",
)
def rondo_vmm(
    *,
    accel: str = "auto",
    duration: int | None = None,
    interval: int = 1_000,
    instance: str | None = None,
    label: list[tuple[str, str]] | None = None,
    memory: int | None = None,
    disk: list[str] | None = None,
    kernel: str | None = None,
    initramfs: str | None = None,
    cmdline: str | None = None,
    cmdline_only: bool = False,
    cpus: int | None = None,
    console: bool = False,
    serial: str = "-",
    output: str = "-",
    text: bool = False,
    linger: int = 30_000,
) -> None:
    header = _header(instance, label or [], interval)
    encode = TextEncoder().encode if text else stream.encode
    example = "rondo-vmm | rondo-store vmm_metrics"
    notices = TEXT_NOTICES if text else NOTICES
    target = OutputThread(open_stream(output, interval, text=text, example=example, notices=notices))
    printer = open_console(serial)
    flags = Flags(
        accelerator=accel,
        duration_ms=duration,
        memory=memory,
        disks=disk or [],
        kernel=kernel,
        initramfs=initramfs,
        command_line=cmdline,
        command_line_only=cmdline_only,
        cpus=cpus,
        console=console,
    )
    config = configure(flags)

    def begin_anew(end: stream.End, header: Header) -> None:
        back_s = (end.t_ms - header.start_ms) / 1000
        log.warning("the clock was set back by %.1f s; the ticks continue in a new session", back_s)
        target.begin_anew(encode(end), encode(header))

    with Wakeup() as wakeup:
        if printer is not None:
            printer.start(b"")
        write_console = _discard if printer is None else printer.put
        with (
            Machine(config.board, config.disks, write_console, wakeup.wake) as machine,
            _typing(config, machine),
        ):
            # Building the VM may take a while; the session begins when the guest starts.
            header = header._replace(start_ms=clock.now_ms())
            target.start(encode(header), wakeup.wake)
            summary = run_vm(
                machine,
                header,
                lambda tick: target.put(encode(tick)),
                begin_anew,
                wakeup,
                deadline_ms=config.deadline_ms,
                silent_s=config.silent_s,
                is_over=lambda: text and target.gone,
            )
        target.finish(encode(stream.End(summary.end.reason, summary.t_ms)))
        if printer is not None:
            printer.finish()
            printer.wait(LAST_LINES_S)
        _linger(target, wakeup, linger)
    _summarize(summary)
    _raise_for(summary, target, text=text)


def make_parser() -> command.Parser:
    """The parser of rondo-vmm."""
    parser = command.Parser(prog="rondo-vmm", description=DESCRIPTION, epilog=EPILOG)
    parser.set_command(rondo_vmm)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(make_parser(), argv)


def _header(instance: str | None, labels: list[tuple[str, str]], interval_ms: int) -> Header:
    """The session's header, checked like a reader of the stream does."""
    if instance is None:
        instance = f"{os.uname().nodename}-{os.getpid()}"
    series = (*SERIES, *cpu.known_series())
    return checked_header(Header(instance, clock.now_ms(), (), interval_ms, series), labels)


@contextmanager
def _typing(config: Config, machine: Machine) -> Iterator[None]:
    """While entered, standard input goes to the guest, if it has a keyboard."""
    keyboard = config.keyboard
    if keyboard is None:
        yield
        return
    from rondo_tools.vmm.terminal import Terminal

    with Terminal(0, keyboard.type, lambda: machine.stop("signal"), keyboard.wait_for_space):
        try:
            yield
        finally:
            keyboard.close()


def _linger(output: OutputThread, wakeup: Wakeup, linger_ms: int) -> None:
    """Wait until everything is delivered, the time is over, or a signal comes."""
    deadline = time.monotonic() + linger_ms / 1000
    while not output.done and (left := deadline - time.monotonic()) > 0:
        if wakeup.wait(left):
            return


def _summarize(summary: Summary) -> None:
    exits = ", ".join(f"{reason} {count}" for reason, count in summary.counters.exits_by_reason().items())
    log.info(
        "ran %.1f s, %s; exits: %s; ended by %s",
        summary.lived_s,
        units.format_count(summary.ticks, "tick"),
        exits,
        summary.end.reason,
    )


def _raise_for(summary: Summary, output: OutputThread, *, text: bool) -> None:
    """Raise the error that gives the exit status: the guest's error takes precedence over the output's."""
    undelivered = ""
    if not output.delivered and not (text and output.gone):
        missing = f"{output.missing} of {units.format_count(summary.ticks, 'tick')}"
        what = f"{missing} {'was' if output.missing == 1 else 'were'}" if output.missing else "the end was"
        undelivered = f"{output.name}: {what} not delivered"
    status = {"shutdown": EX_SHUTDOWN, "error": EX_SOFTWARE}.get(summary.end.reason)
    trouble = f"the VM ended by {summary.end.reason}: {summary.end.detail}"
    if status is None and summary.was_silent:
        status, trouble = EX_SOFTWARE, "the guest never gave a sign of life"
    if status is None and undelivered:
        raise VmError(undelivered, exit_code=EX_TEMPFAIL)
    if status is not None:
        if undelivered:
            log.warning("%s", undelivered)
        raise VmError(trouble, exit_code=status)


def _discard(data: bytes) -> None:
    """Discards console output."""
