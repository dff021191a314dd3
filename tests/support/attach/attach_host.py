"""rondo-attach as a process, a fake store's socket that keeps sessions, and VMs to watch.

A watcher runs in its own network namespace, where KVM's events arrive, too: so it has its own lock beside
other tests. But it sees the VMs of all tests on the host. So the names of VMs begin with the id of the test's
process (`own`), and by default a watcher watches only those, and VMs without a name.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from devtools import exit_loop
from rondo_tools.attach.counters.bpf import BpfCounters
from rondo_tools.catalog import Series
from rondo_tools.stream import Decoder, End, Header, Tick
from tests.support.needs import PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parents[3]
ATTACH = [sys.executable, str(ROOT / "bin" / "rondo-attach")]
FORGETFUL = (
    *(sys.executable, "-c"),
    "import sys; from rondo_tools.attach import cli, discover; discover.BUFFER_BYTES = 1;"
    "sys.exit(cli.main())",
)
"""The same with a buffer for only a few of KVM's events."""
GUEST = Path(__file__).parent / "small_guest.py"
LOOP_EXITS = 3  # of exit_loop's BIOS, besides its loop: 'S', 'E' and the exit device

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY_WITH_BPF = [*NOBODY, "--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon"]
ROOT_WITHOUT_BPF = [
    *("unshare", "--mount", "sh", "-c", 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"', "sh"),
    *("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"),
]
OWN_NETWORK = ["unshare", "--net"]


@cache
def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root, for namespaces, capabilities and other users' VMs"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm does not open"
    try:
        BpfCounters().close()
    except OSError as exc:
        return f"the kernel refuses to count by BPF: {exc}"
    return ""


def needs_kvm_and_bpf() -> None:
    """Skip the test if VMs cannot be created or their exits cannot be counted."""
    if why := _why_not():
        must_have(why)


def own(name: str) -> str:
    """A VM's name, or a text that begins with one, made unique for this process."""
    return f"{os.getpid()}.{name}"


def _own_alone(flags: Sequence[str]) -> tuple[str, ...]:
    """Flags that leave out VMs of other tests, unless `flags` select VMs."""
    if {"--match", "--pid"} & set(flags):
        return ()
    return ("--match", f"name={own('*')}", "--match", "name=pid-*")


class Got(NamedTuple):
    """A session as received by a store."""

    header: Header
    ticks: list[Tick]
    end: End | None
    rows: list[dict[str, float]]  # the values of the ticks

    def last(self) -> dict[str, float]:
        """The values of the last tick."""
        return self.rows[-1]

    def add(self, tick: Tick) -> None:
        if not self.ticks or self.ticks[-1].t_ms < tick.t_ms:  # not a resend
            values = struct.unpack(f"<{len(self.header.series)}d", tick.values)
            self.rows.append(dict(zip(map(str, self.header.series), values, strict=True)))
            self.ticks.append(tick)

    def exits(self) -> dict[str, int]:
        reasons = re.compile(r'vcpu_exits_total\{reason="(\w+)"\}')
        return {m[1]: int(v) for key, v in self.last().items() if (m := reasons.fullmatch(key))}

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.header.labels)


class Receiver:
    """A store's socket: accepts every stream, and acknowledges it by its close.

    A test gets sessions by the names of its VMs, with `own` or without.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.changed = threading.Condition()
        self._got: dict[tuple[str, int], Got] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1000)
        path.chmod(0o666)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"unix:{self._path}"

    def sessions(self) -> list[Got]:
        with self.changed:
            return list(self._got.values())

    def of(self, name: str) -> list[Got]:
        """The sessions of an instance, in the order of their beginning."""
        return sorted(
            (got for got in self.sessions() if got.header.instance in (name, own(name))), key=_start
        )

    def wait(self, name: str, *, ended: int = 0, ticks: int = 0) -> list[Got]:
        """Wait until `ended` sessions of an instance have ended, or the newest has `ticks`."""

        def is_there() -> bool:
            sessions = self.of(name)
            return bool(
                sessions
                and sum(got.end is not None for got in sessions) >= ended
                and len(sessions[-1].ticks) >= ticks
            )

        with self.changed:
            assert self.changed.wait_for(is_there, PATIENCE_S), (name, self._got.keys())
        return self.of(name)

    def wait_for(self, name: str, is_so: Callable[[Got], bool]) -> Got:
        """Wait until the newest session of an instance has a tick and satisfies `is_so`."""

        def is_there() -> bool:
            sessions = self.of(name)
            return bool(sessions and sessions[-1].ticks and is_so(sessions[-1]))

        with self.changed:
            assert self.changed.wait_for(is_there, PATIENCE_S), (name, self._got.keys())
        return self.of(name)[-1]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._take, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _take(self, peer: socket.socket) -> None:
        with peer:
            decoder, got = Decoder(), Got(Header("", 0, (), 0, ()), [], None, [])
            while piece := peer.recv(1 << 16):
                for event in decoder.feed(piece):
                    with self.changed:
                        if isinstance(event, Header):
                            key = event.instance, event.start_ms
                            # A further header of the session has other series.
                            got = self._got.get(key, Got(event, [], None, []))._replace(header=event)
                        elif isinstance(event, Tick):
                            got.add(event)
                        else:
                            got = got._replace(end=event)
                        self._got[got.header.instance, got.header.start_ms] = got
                        self.changed.notify_all()


def _start(got: Got) -> int:
    return got.header.start_ms


class Watcher:
    """rondo-attach as a process; `log` is its standard error so far."""

    def __init__(
        self,
        *flags: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        network: Sequence[str] = OWN_NETWORK,
        command: Sequence[str] = ATTACH,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [*network, *wrapper, *command, "--verbose", *flags],
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.log = ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log += line
                self._changed.notify_all()
        with self._changed:
            self.log += "\n<end>\n"
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.log or "<end>" in self.log, PATIENCE_S)
            assert text in self.log, self.log

    def stop(self) -> int:
        """Its exit status after a SIGTERM."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        return status

    def close(self) -> None:
        self.process.kill()
        self.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def watching(
    *flags: str,
    wrapper: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = ATTACH,
) -> Iterator[Watcher]:
    """A watcher that is ready for KVM's events."""
    watcher = Watcher(*flags, *_own_alone(flags), wrapper=wrapper, environment=environment, command=command)
    try:
        watcher.wait_for("watching")
        yield watcher
    finally:
        watcher.close()


_HAND_OVER = """
import fcntl, os, sys
count = int(sys.argv[1])
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2:2 + count]]
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number)
os.closerange(3 + count, 200)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execvp(sys.argv[2 + count], sys.argv[2 + count:])
"""


class ServiceManager:
    """systemd's part for rondo-attach.service: keeps its descriptors and its runtime directory."""

    def __init__(self, folder: Path) -> None:
        self.kept: dict[str, int] = {}
        self.runtime = folder / "run"
        self.runtime.mkdir()
        self._address = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._address))
        self._socket.settimeout(PATIENCE_S)
        for path in (self.runtime, self._address):
            path.chmod(0o777)

    @contextmanager
    def started(self, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Watcher]:
        """The ready service; killed at the end."""
        fds = [str(fd) for fd in self.kept.values()]
        watcher = Watcher(
            *flags,
            *_own_alone(flags),
            wrapper=[sys.executable, "-c", _HAND_OVER, str(len(fds)), *fds, *NOBODY_WITH_BPF],
            environment={
                **(environment or os.environ),
                "NOTIFY_SOCKET": str(self._address),
                "RUNTIME_DIRECTORY": str(self.runtime),
                "LISTEN_FDNAMES": ":".join(self.kept),
            },
            pass_fds=[*self.kept.values()],
        )
        try:
            self._take_messages(watcher)
            yield watcher
        finally:
            watcher.close()

    def _take_messages(self, watcher: Watcher) -> None:
        """Process messages until the service is ready."""
        while True:
            message, fds, _, _ = socket.recv_fds(self._socket, 1 << 12, 10)
            fields = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTORE" in fields:
                self._store(fields, *fds)
            elif "FDSTOREREMOVE" in fields:
                os.close(self.kept.pop(fields["FDNAME"]))
            elif "READY" in fields:
                return
            assert watcher.process.poll() is None, watcher.log

    def _store(self, fields: Mapping[str, str], fd: int) -> None:
        """Like systemd, drop a descriptor that polls as an error, unless FDPOLL=0."""
        assert fields["FDNAME"] not in self.kept, "two of one name would be handed over"
        poll = select.poll()
        poll.register(fd, 0)
        if fields.get("FDPOLL") != "0" and poll.poll(0):
            os.close(fd)
        else:
            self.kept[fields["FDNAME"]] = fd

    def drop(self) -> None:
        """Forget all descriptors, as when the service is stopped."""
        for fd in self.kept.values():
            os.close(fd)
        self.kept.clear()

    def close(self) -> None:
        self.drop()
        self._socket.close()


class SmallGuest:
    """`small_guest.py` as a process with the given command line; its `name` becomes `own`."""

    def __init__(self, *arguments: str, program: str = "qemu-kvm", name: str = "") -> None:
        named = ("-name", f"guest={own(name)}") if name else ()
        # The command line looks like QEMU's, so that the VM has a name.
        self.process = subprocess.Popen(
            [program, str(GUEST), *named, *arguments],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def do(self, *lines: str) -> None:
        for line in lines:
            self.begin(line)
            self.finish(line)

    def begin(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin)

    def finish(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n"

    def main_thread_ns(self) -> int:
        """The CPU time of its main thread."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])

    def quit(self, status: int = 0) -> None:
        assert self.process.stdin is not None
        print(f"quit {status}", file=self.process.stdin)
        assert self.process.wait(PATIENCE_S) == status

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


@contextmanager
def small_guest(*arguments: str, program: str = "qemu-kvm", name: str = "") -> Iterator[SmallGuest]:
    guest = SmallGuest(*arguments, program=program, name=name)
    try:
        yield guest
    finally:
        guest.close()


def start_qemu(program: Path, name: str, exits: int, folder: Path) -> subprocess.Popen[bytes]:
    """A QEMU whose guest makes `exits` port exits and LOOP_EXITS, and exits with status 1.

    Its `name` is made `own`.
    """
    image = folder / f"bios-{exits}"
    if not image.exists():
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(exit_loop.bios(exits))
        Path(file.name).rename(image)
    return subprocess.Popen(
        [
            *(
                str(program),
                "-name",
                f"guest={own(name)}",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
            ),
            *("-no-reboot", "-machine", "pc,accel=kvm", "-m", "16", "-bios", str(image)),
            *("-chardev", "null,id=out", "-device", "isa-debugcon,iobase=0xe9,chardev=out"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def has_series(header: Header) -> set[str]:
    def name(series: Series) -> str:
        return series.name

    return set(map(name, header.series))
