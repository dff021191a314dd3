"""The command line of rondo-attach: checks the flags, opens counters and adapters, and watches."""

from __future__ import annotations

import gc
import logging
import os
import select
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import argh

from rondo_tools import clock, command, sd_notify, units
from rondo_tools.attach import listing
from rondo_tools.attach.choose import Choice, Condition, parse_condition
from rondo_tools.attach.counters.choose import Chosen, choose
from rondo_tools.attach.counters.pins import Pins
from rondo_tools.attach.discover import Uevents
from rondo_tools.attach.ends import EndsFile
from rondo_tools.attach.handover import Handover
from rondo_tools.attach.lives import Options
from rondo_tools.attach.namespace import check_namespace
from rondo_tools.attach.naming import PathTemplate, Template
from rondo_tools.attach.process import thread_group
from rondo_tools.attach.self_metrics import INSTANCE, SelfMetrics, Tally
from rondo_tools.attach.single import claim
from rondo_tools.attach.sinks import PipeSink, Sink, StoreSink
from rondo_tools.attach.sources.choose import Wanted, adapter_flags, open_adapters
from rondo_tools.attach.text import TextSink
from rondo_tools.attach.watch import Watcher
from rondo_tools.catalog import SERIES
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, RondoError, UsageError
from rondo_tools.files import raise_descriptor_limit
from rondo_tools.producer.address import TcpAddress, UnixAddress
from rondo_tools.producer.destination import address, standard
from rondo_tools.producer.flags import checked_header, parse_label
from rondo_tools.signals import Signals
from rondo_tools.stream import Header
from rondo_tools.units import format_count

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapters

log = logging.getLogger(__name__)

_STDOUT = 1
_OWN_LABELS = ("attached", "nova_name", "sandbox_id", "uuid", "vmm")  # set by rondo-attach, not by --label
_GARBAGE = 20_000  # new objects between garbage collections: a tick of 1,000 VMs makes some thousand

DESCRIPTION = """\
Watch all KVM VMs of this host from outside: exits by reason, steal, CPU and memory, each second.

  sudo rondo-attach --text
  sudo rondo-attach --pid 4711 | rondo-store vmm_metrics
  sudo rondo-attach --output unix:/run/rondo/store.sock
  rondo-attach list

KVM's own events report each VM, however short its life. VMs and VMMs are not asked for anything, except by
adapters: --libvirt, --qmp, --firecracker, --cloud-hypervisor and --microsandbox add block metrics, and all
but --qmp network metrics, as --taps does. BPF counts the exits (CAP_BPF and CAP_PERFMON), else perf. A series
that cannot be counted is left out; it is never zero. `rondo-attach list` shows what is refused, and which
capability is missing. rondo-vmm sends its VMs' metrics itself, so they are left out, unless
--match vmm=rondo-vmm includes them.

SIGINT, SIGTERM or SIGHUP (not under nohup) stops rondo-attach. The VMs continue, and their sessions get no
end. A second signal gives up on undelivered ticks."""

EPILOG = """\
exit status of this command, beyond those below:
  69  not the host's PID namespace, no such process, another rondo-attach watches all VMs, or
      no python3-libvirt for --libvirt
  75  some sessions were not delivered
"""


@argh.arg(
    "--linger",
    type=command.typed(units.parse_duration),
    metavar="TIME",
    help="how long to continue delivering at the end (default: 30s)",
)
@argh.arg("--pid", type=int, metavar="N", help="watch only the VM of this process, and exit when it ends")
@argh.arg(
    "--output",
    type=str,
    metavar="-|unix:PATH|tcp:HOST:PORT",
    help="the store's socket, which gets a connection for each VM; with --pid also -, standard output "
    "(the default with --pid)",
)
@argh.arg("--text", help="write readable lines to standard output")
@argh.arg(
    "--match",
    type=command.typed(parse_condition),
    action="append",
    metavar="name=PATTERN|vmm=PATTERN",
    help="watch only VMs that match one of these, such as name=ci-* or vmm=qemu; repeatable",
)
@argh.arg(
    "--ignore",
    type=command.typed(parse_condition),
    action="append",
    metavar="name=PATTERN|vmm=PATTERN",
    help="leave out VMs that match one of these; repeatable. Those of rondo-vmm are left out unless "
    "--match vmm=rondo-vmm includes them",
)
@argh.arg(
    "--label",
    type=command.typed(parse_label),
    action="append",
    metavar="NAME=VALUE",
    help="a label for all series of all VMs; repeatable",
)
@argh.arg(
    "--name",
    type=command.typed(Template),
    metavar="TEMPLATE",
    help="a template of VMs' names, with the fields {name}, {pid}, {vmm}, {uuid}, {cgroup}, {sandbox_id}, "
    "{host} (default: {name})",
)
@adapter_flags
@argh.arg(
    "--pin",
    type=str,
    metavar="DIR",
    help="keep the counters in this folder of a bpf file system, so that a restart loses no exit and no "
    "session, also without systemd; they continue to count until the folder is removed",
)
@argh.arg(
    "--state",
    type=str,
    metavar="DIR",
    help="with --pin: the folder of the files `lives` and `ends` (default: $RUNTIME_DIRECTORY)",
)
@argh.arg("--no-health", help=f"do not send rondo-attach's own metrics as the instance {INSTANCE}")
@argh.arg(
    "--interval",
    type=command.typed(partial(units.parse_duration, shortest_ms=100)),
    metavar="TIME",
    help="time between ticks, which are at multiples of it (default: 1s)",
)
def rondo_attach(
    *,
    pid: int | None = None,
    output: str | None = None,
    text: bool = False,
    match: list[Condition] | None = None,
    ignore: list[Condition] | None = None,
    label: list[tuple[str, str]] | None = None,
    name: Template | None = None,
    qmp: PathTemplate | None = None,
    firecracker: PathTemplate | None = None,
    flush: PathTemplate | None = None,
    cloud_hypervisor: PathTemplate | None = None,
    libvirt: str | None = None,
    taps: bool = False,
    microsandbox: str | None = None,
    pin: str | None = None,
    state: str | None = None,
    no_health: bool = False,
    interval: int = 1_000,
    linger: int = 30_000,
) -> None:
    labels = _labels(label or [], interval)
    wanted = Wanted(qmp, firecracker, flush, cloud_hypervisor, libvirt, taps, microsandbox).checked()
    where = _destination(output, pid, text=text)
    if pin is None and state is not None:
        raise UsageError("--state is for --pin; under systemd the unit's RuntimeDirectory= is the folder")
    if pin is not None and (where is None or pid is not None):
        raise UsageError("--pin needs --output, and no --pid: it is for a watcher of all VMs")
    state = state or os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if pin is not None and not state:
        raise UsageError("--pin needs --state DIR too, for the files `lives` and `ends`")
    check_namespace()
    if pid is not None and thread_group(pid) != pid:
        raise RondoError(f"--pid {pid}: there is no such process", exit_code=EX_UNAVAILABLE)
    raise_descriptor_limit()  # a VM takes six
    options = Options(interval, Choice(match or (), ignore or ()), labels, name, pid)
    with ExitStack() as opened:
        if where is not None and pid is None and (lock := claim()) is not None:
            opened.callback(lock.close)
        epoll = opened.enter_context(select.epoll())
        if text:
            sink: Sink = TextSink(epoll, _STDOUT)
        elif where is not None:
            sink = StoreSink(epoll, where, str(output))
        else:
            sink = PipeSink(epoll, _STDOUT)
        opened.callback(sink.close)
        adapters = open_adapters(interval / 1000, wanted)
        if adapters is not None:
            opened.callback(adapters.close)
        pins = None
        if pin is not None:
            pins = Pins(pin)
            opened.callback(pins.close)
        has_health = pid is None and not no_health
        _watch(*(opened, options, sink, epoll, adapters, linger / 1000, pins, state), has_health=has_health)


def _watch(
    opened: ExitStack,
    options: Options,
    sink: Sink,
    epoll: select.epoll,
    adapters: Adapters | None,
    linger_s: float,
    pins: Pins | None,
    state: str,
    *,
    has_health: bool,
) -> None:
    signals = opened.enter_context(Signals())
    notifier = sd_notify.Notifier()
    before = Handover(notifier, dict(sd_notify.handed_over()), pins)
    # The counters first, then the events: a VM with an event is counted from its first exit.
    chosen = choose(before.descriptors)
    if chosen.counters is not None:
        opened.callback(chosen.counters.close)
    kept = before.keep(chosen, state)
    since_boot_s = chosen.since_boot_s if kept is None else kept.since_boot_s
    uevents = Uevents()
    opened.callback(uevents.close)
    if kept is not None and isinstance(sink, StoreSink):
        kept.leave_out(sink.keep(EndsFile(Path(state))))
    tally, own = Tally(), None
    if has_health and isinstance(sink, StoreSink):
        own = SelfMetrics(tally, uevents, sink, chosen.counters, adapters)
        opened.callback(own.close)
    watcher = Watcher(
        *(options, sink, chosen.counters, since_boot_s, uevents, epoll),
        adapters=adapters,
        kept=kept,
        tally=tally,
        own=own,
    )
    opened.callback(watcher.close)
    watcher.begin()
    _log_counters(chosen)
    notifier.ready()
    gc.freeze()  # leave out the modules: checking them each time takes longer than beginning a VM
    gc.set_threshold(_GARBAGE)
    watcher.run(signals)
    notifier.stopping()
    if sink.is_gone:
        return
    if unsent := watcher.linger(signals, linger_s):
        raise RondoError(f"{format_count(unsent, 'session')} not delivered", exit_code=EX_TEMPFAIL)


def _destination(output: str | None, pid: int | None, *, text: bool) -> UnixAddress | TcpAddress | None:
    """The store's address; None for standard output. Raises UsageError."""
    if text:
        if output not in (None, "-"):
            raise UsageError(f"--text is for people; --output {output} wants the stream")
        standard(_STDOUT, "output")
        return None
    if output not in (None, "-"):
        where = address(output)
        if where is None:
            raise UsageError(f"--output {output}: write unix:PATH or tcp:HOST:PORT")
        return where
    if pid is None:
        raise UsageError(
            "--output is missing: give --output unix:PATH for the metrics of all VMs, or --text to read "
            "them; standard output takes the stream of one VM, with --pid"
        )
    if os.isatty(standard(_STDOUT, "output")):
        raise UsageError(
            "standard output is a terminal, and the stream is binary: pipe it, as in "
            f"`rondo-attach --pid {pid} | rondo-store vmm_metrics`, or give --text to read it"
        )
    return None


def _log_counters(chosen: Chosen) -> None:
    for refusal in chosen.refused:
        needs = f" (needs {refusal.needs})" if refusal.needs else ""
        missing = f"; missing: {refusal.series}" if refusal.series and not chosen.counters else ""
        log.warning("%s: %s%s%s", refusal.source, refusal.why, needs, missing)
    counted = f"counted by {chosen.counters.name}" if chosen.counters is not None else "not counted"
    log.info("watching; exits are %s", counted)


def _labels(labels: list[tuple[str, str]], interval_ms: int) -> tuple[tuple[str, str], ...]:
    """The labels, checked like a reader of the stream does, and against those of rondo-attach."""
    bare = Header("vm", clock.now_ms(), (), interval_ms, SERIES)
    return checked_header(bare, labels, _OWN_LABELS).labels


def make_parser() -> command.Parser:
    """The parser of rondo-attach, with its command `list`."""
    parser = command.Parser(prog="rondo-attach", description=DESCRIPTION, epilog=EPILOG)
    parser.set_command(rondo_attach)
    listed = parser.add_command("list", help=listing.SUMMARY, description=listing.DESCRIPTION)
    listed.set_command(listing.list_vms)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(make_parser(), argv)
