"""Peers that vanish from a TCP connection without a word: hosts that lose their power or their network."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rondo_tools import listeners, stream
from rondo_tools.catalog import COUNTER, Series
from rondo_tools.producer.address import TcpAddress
from rondo_tools.producer.link import Link
from rondo_tools.signals import Signals
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.server.server import Server
from rondo_tools.store.watermarks import Watermarks
from rondo_tools.stream import Header
from rondo_tools.vmm.output import OutputThread
from tests.support.needs import must_have

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 60
CLONE_NEWNET = 0x40000000
SYS_PIDFD_GETFD = 438  # the same on all architectures
STORE, PRODUCER = "10.9.9.1", "10.9.9.2"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a tool; whatever becomes of the test, it does not outlive it."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(tool: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "bin" / tool), *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def tcp_sockets(pid: int) -> list[socket.socket]:
    """Copies of the connected TCP sockets of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    found = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if not str(entry.readlink()).startswith("socket:"):
                    continue
            except FileNotFoundError:
                continue  # it was closed meanwhile
            fd = libc.syscall(SYS_PIDFD_GETFD, process, int(entry.name), 0)
            if fd < 0:
                must_have(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
            copy = socket.socket(fileno=fd)
            if copy.family == socket.AF_INET and not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append(copy)
            else:
                copy.close()
    finally:
        os.close(process)
    return found


def header(instance: str = "vm-1") -> bytes:
    series = (Series("requests_total", (), COUNTER, "", ""),)
    return stream.encode(Header(instance, 1_795_395_000_000, (), 1000, series))


# --- the options of the real programs ------------------------------------------------------------


def test_a_server_probes_its_tcp_producers(start: Start, tmp_path: Path) -> None:
    process = start("rondo-store", tmp_path / "s", "--listen", "tcp:127.0.0.1:0")
    assert process.stderr is not None
    for line in process.stderr:
        if b"listening" in line:
            break
    port = int(line.rsplit(b":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as peer:
        peer.sendall(header())
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as next_one:
            next_one.shutdown(socket.SHUT_WR)
            assert next_one.recv(1) == b""  # so it is done with accepting the first
        (connection,) = tcp_sockets(process.pid)
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, every, count = (
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + every * count <= 120


@pytest.mark.parametrize(("interval", "most_ms"), [("1s", 60_000), ("50ms", 15_000), ("10ms", 3_000)])
def test_a_vm_waits_for_no_answer_longer_than_it_keeps_its_ticks(
    start: Start, interval: str, most_ms: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        output = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        process = start("rondo-vmm", "--duration", "1h", "--interval", interval, "--output", output)
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(WAIT_S)
            assert accepted.recv(1)  # its options were set before that
            (connection,) = tcp_sockets(process.pid)
            with connection:
                timeout_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert 0 < timeout_ms <= most_ms


# --- peers that vanish, in a network of their own -------------------------------------------------


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[None]:
    """A network that this thread alone is in, with an address for the store and one for a producer."""
    if shutil.which("ip") is None:
        must_have("ip (iproute2) is not on PATH")
    libc = ctypes.CDLL(None, use_errno=True)
    mine = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            must_have(f"no rights to make a network: {os.strerror(ctypes.get_errno())}")
        ip("link", "set", "lo", "up")
        for address in (STORE, PRODUCER):
            ip("address", "add", f"{address}/32", "dev", "lo")
        yield
    finally:
        libc.setns(mine, CLONE_NEWNET)
        os.close(mine)


def vanish(address: str) -> None:
    """What is sent to the address is lost, without an answer."""
    ip("address", "del", f"{address}/32", "dev", "lo")


@pytest.mark.usefixtures("network")
def test_a_connection_whose_producer_has_vanished_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "KEEPALIVE", dict.fromkeys(listeners.KEEPALIVE, 1))  # seconds, and probes
    with Signals() as signals, OpenStore(tmp_path / "s") as store:
        listener = listeners.listen(f"tcp:{STORE}:0")
        server = Server(store, [listener], Watermarks(-1), signals)
        server.open()
        try:
            address = listener.socket.getsockname()
            with (
                socket.create_connection(address, WAIT_S, (PRODUCER, 0)) as vanishing,
                socket.create_connection(address, WAIT_S, (STORE, 0)) as quiet,
            ):
                vanishing.sendall(header("vanishing"))
                quiet.sendall(header("quiet"))
                while server.counts.sessions < 2:
                    server.turn(WAIT_S)
                vanish(PRODUCER)
                while server.connections == 2:
                    assert server.turn(WAIT_S), "nothing has happened for a minute"
                assert server.connections == 1
                assert server.errors == dict.fromkeys(server.errors, 0) | {"connection": 1}
                quiet.shutdown(socket.SHUT_WR)  # the other one is still served
                while server.connections:
                    server.turn(WAIT_S)
                assert quiet.recv(1) == b""
        finally:
            server.close()
            listener.close()


@pytest.mark.usefixtures("network")
def test_a_store_that_has_vanished_gets_every_tick_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = socket.create_server((STORE, 0))
    listener.settimeout(WAIT_S)
    address = listener.getsockname()
    output = OutputThread(Link(TcpAddress(*address), "store", interval_ms=5))  # 600 of them are three seconds
    output.start(b"header;")
    output.put(b"tick 0;")
    sent = b"header;tick 0;"
    accepted, _ = listener.accept()
    with accepted, listener:
        accepted.settimeout(WAIT_S)
        got = b""
        while got != sent:
            got += accepted.recv(4096)
        vanish(STORE)
        for number in range(1, 600):
            output.put(tick := b"tick %d;" % number)
            sent += tick
            output.wait(0.005)
            if "trying again" in caplog.text:
                break
        else:
            pytest.fail("it still waits for an answer, and will not have the ticks any more")
    ip("address", "add", f"{STORE}/32", "dev", "lo")
    with socket.create_server(address) as listener:
        listener.settimeout(WAIT_S)
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(WAIT_S)
            output.finish(b"end")
            got = b""
            while piece := accepted.recv(1 << 16):
                got += piece
    assert got == sent + b"end"
    assert output.wait(WAIT_S)
    assert output.delivered
