"""rondo-store --listen as producers see it: many at once, good and bad."""

from __future__ import annotations

import grp
import os
import random
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.errors import RondoError, UsageError
from rondo_tools.listeners import inherited, listen
from rondo_tools.sd_notify import Notifier
from rondo_tools.signals import Signals
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.store.server import self_metrics
from rondo_tools.store.server import server as server_module
from rondo_tools.store.server.server import Server
from rondo_tools.store.server.timers import Timers
from rondo_tools.store.watermarks import Watermarks
from tests.support.faulty_disk import FaultyDisk
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S, must_have
from tests.support.store import stream_model as model
from tests.support.store.store_host import (
    PROGRAM,
    Clock,
    acknowledged,
    connected,
    data,
    deliver,
    fill,
    started,
    turns,
    wait_for_log,
)
from tests.support.store.stream_model import ticks


def check(path: Path, instance: str, begin_ms: int, count: int, *, finished: bool = True) -> None:
    (session,) = [one for one in Store(path).sessions() if one.key == (instance, begin_ms)]
    model.check(session, ticks(count, begin_ms))
    assert (session.end and session.end.reason) == ("poweroff" if finished else None)


def read_to(process: subprocess.Popen[bytes], path: Path, instance: str, t_ms: int) -> None:
    """Read standard output until the store has a tick."""
    assert process.stdout is not None
    while not any(one.instance == instance and one.last_ms >= t_ms for one in Store(path).sessions()):
        assert process.stdout.readline()


def test_twenty_producers_at_once_in_pieces_of_any_size(path: Path, address: str, begin_ms: int) -> None:
    rng = random.Random(1)
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        peers = [connected(address) for _ in range(20)]
        left = [data(begin_ms, 310, instance=f"vm-{number}") for number in range(20)]
        while any(left):
            for number, peer in enumerate(peers):
                size = rng.choice((1, 50, 140, 5000))
                peer.sendall(left[number][:size])
                left[number] = left[number][size:]
        assert all(acknowledged(peer) for peer in peers)
        # The close acknowledged that everything is stored: nothing is left for the end.
        process.kill()
    for number in range(20):
        check(path, f"vm-{number}", begin_ms, 310)
    assert [session.end is not None for session in Store(path).sessions()] == [True] * 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watermarks_and_a_clean_end(path: Path, address: str, begin_ms: int, number: signal.Signals) -> None:
    with started(
        path, "--no-health", "--listen", f"unix:{address}", "--listen", "tcp:127.0.0.1:0"
    ) as process:
        port = wait_for_log(process, "listening on tcp:").strip().rpartition(":")[2]
        assert stat.S_IMODE(Path(address).stat().st_mode) == 0o660
        with (
            connected(address) as peer,
            socket.create_connection(("127.0.0.1", int(port)), PATIENCE_S) as other,
        ):
            peer.sendall(data(begin_ms, 10, end=False))
            other.sendall(data(begin_ms, 20, instance="vm-2"))
            assert acknowledged(other)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert b"30 ticks stored, 2 sessions" in err
    assert not Path(address).exists()
    size = (path / "tier_0" / f"{1:010}").stat().st_size
    assert out.decode().splitlines()[-1] == f"{path}\t1:{size}"
    check(path, "vm-1", begin_ms, 10, finished=False)


HUGE = b"\xc6" + struct.pack(">I", (1 << 31) - 1) + bytes(1 << 21)


@pytest.mark.parametrize("junk", [b"\xc1", b"GET / HTTP/1.1\r\n\r\n", HUGE, b"\x93" * 5000])
def test_only_the_bad_connection_is_closed(path: Path, address: str, begin_ms: int, junk: bytes) -> None:
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        whole = data(begin_ms, 30)
        with connected(address) as good, connected(address) as bad:
            good.sendall(whole[:3000])
            bad.sendall(data(begin_ms, 5, end=False, instance="bad"))
            try:
                bad.sendall(junk)
                assert not acknowledged(bad)
            except OSError:
                pass  # the store closed it before it had sent everything
            line = wait_for_log(process, "closed: ").splitlines()[-1]
            assert re.search(r"connection \d+ \(bad\): closed: stream, byte", line)
            good.sendall(whole[3000:])
            assert acknowledged(good)
    check(path, "vm-1", begin_ms, 30)
    check(path, "bad", begin_ms, 5, finished=False)  # the ticks before the junk are stored


def test_two_producers_of_one_session_with_different_labels(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        with connected(address) as peer:
            peer.sendall(data(begin_ms, 5, end=False))
            other = stream.encode(stream.Header("vm-1", begin_ms, (("a", "b"),), 1000, SERIES))
            assert not deliver(address, other)
            assert "with other labels or another interval" in wait_for_log(process, "closed: ")
            peer.sendall(data(begin_ms, 9)[len(data(begin_ms, 5, end=False)) :])
            assert acknowledged(peer)
    check(path, "vm-1", begin_ms, 9)


def test_a_new_connection_takes_the_session_over(path: Path, address: str, begin_ms: int) -> None:
    header = len(data(begin_ms, 0, end=False))
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        with connected(address) as old, connected(address) as new:
            old.sendall(data(begin_ms, 20, end=False))
            read_to(process, path, "vm-1", begin_ms + 19_000)  # so that it is the old one
            new.sendall(data(begin_ms, 40, end=False))
            read_to(process, path, "vm-1", begin_ms + 39_000)
            # Later data on the old connection has no effect.
            old.sendall(data(begin_ms, 30)[header:])
            assert not acknowledged(old)
            assert "continues on a newer connection" in wait_for_log(process, "closed: ")
            new.sendall(data(begin_ms, 60)[header + 40 * 140 :])
            assert acknowledged(new)
    check(path, "vm-1", begin_ms, 60)


def test_a_kill_is_never_an_acknowledgement(small_disk: Path, tmp_path: Path, begin_ms: int) -> None:
    """Killed while an ended producer waits for the acknowledgement: it must see a broken connection."""
    path, address = small_disk / "store", str(tmp_path / "sock")
    with started(path, "--no-health", "--max-bytes", "10M", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        with connected(address) as first, connected(address) as peer:
            first.sendall(data(begin_ms, 3, end=False, instance="first"))
            assert process.stdout is not None
            process.stdout.readline()
            ballast = fill(small_disk, 0)
            peer.sendall(data(begin_ms, 300))
            peer.shutdown(socket.SHUT_WR)
            wait_for_log(process, "No space left on device; trying again")
            process.kill()
            process.wait()
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
    check(path, "first", begin_ms, 3, finished=False)
    ballast.unlink()
    with started(
        path, "--no-health", "--listen", f"unix:{address}"
    ) as process:  # over the socket file left behind
        wait_for_log(process, "listening")
        assert deliver(address, data(begin_ms, 300))
    check(path, "vm-1", begin_ms, 300)


def test_it_waits_on_a_full_disk_and_warns_once(small_disk: Path, tmp_path: Path, begin_ms: int) -> None:
    path, address = small_disk / "store", str(tmp_path / "sock")
    with started(path, "--no-health", "--max-bytes", "10M", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        with connected(address) as one, connected(address) as two:
            ballast = fill(small_disk, 0)
            one.sendall(data(begin_ms, 50))
            two.sendall(data(begin_ms, 50, instance="vm-2"))
            wait_for_log(process, "trying again")
            ballast.unlink()
            assert acknowledged(one)
            assert acknowledged(two)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert text.count("trying again") == 0
    assert text.count("writing again") == 1
    check(path, "vm-1", begin_ms, 50)
    check(path, "vm-2", begin_ms, 50)


def test_more_connections_than_descriptors(path: Path, address: str, begin_ms: int) -> None:
    """Sixteen at a time, by the limit; later ones wait, and lose nothing."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))

    with started(path, "--no-health", "--listen", f"unix:{address}", preexec_fn=limit) as process:
        wait_for_log(process, "listening")
        peers = [connected(address) for _ in range(40)]
        for number, peer in enumerate(peers):
            peer.sendall(data(begin_ms, 10, instance=f"vm-{number}"))
        assert "allows 16 connections at a time" in wait_for_log(process, "new ones wait")
        for peer in peers:
            assert acknowledged(peer)
            peer.close()  # makes room for the next one
    for number in range(40):
        check(path, f"vm-{number}", begin_ms, 10)


def test_idle_exit(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--no-health", "--listen", f"unix:{address}", "--idle-exit", "1s") as process:
        wait_for_log(process, "listening")
        assert deliver(address, data(begin_ms, 3))
        assert process.wait(PATIENCE_S) == 0
    check(path, "vm-1", begin_ms, 3)


# --- addresses -----------------------------------------------------------------------------------


def test_a_stale_socket_file_is_replaced_and_a_live_one_refused(tmp_path: Path, address: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(address)
    with closing(listen(f"unix:{address}")):
        with pytest.raises(RondoError, match="another process listens there") as caught:
            listen(f"unix:{address}")
        assert caught.value.exit_code == 75
    assert not Path(address).exists()
    Path(address).write_text("mine")
    with pytest.raises(UsageError, match="not a socket"):
        listen(f"unix:{address}")
    assert Path(address).read_text() == "mine"


def test_a_replaced_socket_file_is_not_removed(address: str) -> None:
    with ExitStack() as opened:
        first = opened.enter_context(closing(listen(f"unix:{address}")))
        Path(address).rename(f"{address}.old")
        opened.enter_context(closing(listen(f"unix:{address}")))
        first.close()
        assert Path(address).exists()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("unix:", "write unix:PATH"),
        ("/run/socket", "write unix:PATH"),
        ("udp:127.0.0.1:5", "write unix:PATH"),
        ("tcp:127.0.0.1", "write tcp:HOST:PORT"),
        ("tcp:127.0.0.1:70000", "write tcp:HOST:PORT"),
        ("unix:/" + "x" * 120, "at most 107 bytes"),
        ("unix:/nowhere/at/all", "No such file"),
        ("tcp:no-such-host.invalid:1", "--listen tcp:no-such-host.invalid:1"),
    ],
)
def test_invalid_addresses(spec: str, why: str) -> None:
    with pytest.raises(RondoError, match=why):
        listen(spec)


def test_tcp_listens_on_loopback_by_default(path: Path) -> None:
    with closing(listen("tcp::0")) as local:
        assert local.socket.getsockname()[0] == "127.0.0.1"
        assert local.is_guarded
    with closing(listen("tcp:0.0.0.0:0")) as open_to_all:
        assert not open_to_all.is_guarded
    with started(path, "--no-health", "--listen", "tcp:0.0.0.0:0") as process:
        wait_for_log(process, "everyone who reaches this address can write (no authentication)")


def test_the_group_of_a_socket(address: str) -> None:
    with pytest.raises(UsageError, match="no such group"):
        listen(f"unix:{address}", "no-such-group")
    assert not Path(address).exists()


def test_the_socket_belongs_to_the_named_group(path: Path, address: str, begin_ms: int) -> None:
    """A group that this user may choose, other than the default."""
    mine = [one.gr_gid for one in grp.getgrall()] if os.geteuid() == 0 else os.getgroups()
    group = next((gid for gid in mine if gid != os.getegid()), None)
    if group is None:
        must_have("no second group to give a socket to")
    name = grp.getgrgid(group).gr_name
    with started(path, "--no-health", "--listen", f"unix:{address}", "--socket-group", name) as process:
        wait_for_log(process, "listening")
        status = Path(address).stat()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (group, 0o660)
        assert deliver(address, data(begin_ms, 3))


@pytest.mark.parametrize("flags", [("--idle-exit", "1s"), ("--socket-group", "root")])
def test_server_flags_without_a_listener(path: Path, run: Run, flags: tuple[str, str]) -> None:
    done = run("rondo-store", path, *flags)
    assert done.returncode == 64
    assert b"are for --listen" in done.stderr


# --- systemd -------------------------------------------------------------------------------------


def test_sockets_notification_and_watchdog(
    path: Path, address: str, tmp_path: Path, begin_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a systemd service: the socket exists before, and systemd is notified."""
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        listening.bind(address)
        listening.listen()
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with connected(address) as early:
            early.sendall(data(begin_ms, 30))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            monkeypatch.setenv("WATCHDOG_USEC", "100000")
            monkeypatch.setenv("LISTEN_FDS", "1")

            def hand_over() -> None:
                os.dup2(listening.fileno(), 3)
                os.environ["LISTEN_PID"] = str(os.getpid())

            process = subprocess.Popen(
                [*PROGRAM, str(path), "--no-health"],
                close_fds=False,
                preexec_fn=hand_over,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                assert manager.recv(100) == b"READY=1"
                assert acknowledged(early)
                assert manager.recv(100) == b"WATCHDOG=1"
                process.send_signal(signal.SIGTERM)
                while (message := manager.recv(100)) == b"WATCHDOG=1":
                    pass
                assert message == b"STOPPING=1"
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()
                process.wait()
        assert Path(address).exists()  # it is systemd's
    check(path, "vm-1", begin_ms, 30)


def test_sockets_and_watchdogs_of_a_parent_are_ignored() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5"}
    assert inherited(environment) == []
    assert Notifier(environment | {"WATCHDOG_PID": "1"}).alive_every_s is None
    assert Notifier({"WATCHDOG_USEC": "5"}).alive_every_s is None
    assert Notifier({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000"}).alive_every_s == 1.5


# --- its own metrics -----------------------------------------------------------------------------


def test_its_own_metrics_are_an_instance(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        assert deliver(address, data(begin_ms, 30) + data(begin_ms, 30))
        assert not deliver(address, b"junk")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert b"30 ticks stored, 2 sessions; 30 late" in err  # its own are not counted
    (own,) = [one for one in Store(path).sessions() if one.instance == "rondo-store"]
    assert own.header.series == self_metrics.SERIES
    assert own.end is not None
    rows = own.rows()
    last = dict(zip(map(str, own.header.series), rows.values[-1].tolist(), strict=True))
    assert last['store_ticks_total{result="stored"}'] == 30
    assert last['store_ticks_total{result="late"}'] == 30
    assert last["store_samples_total"] == 30 * 16
    assert last['store_errors_total{kind="stream"}'] == 1
    assert last["store_connections"] == 0
    assert last["store_loop_lag_ns"] > 0
    assert last["store_live_sessions"] == 2
    size = (path / "tier_0" / f"{1:010}").stat().st_size
    assert out.decode().splitlines()[-1] == f"{path}\t1:{size}"  # so that they are pushed like the others


def test_its_own_metrics_get_a_tick_each_second(path: Path, address: str, clock: Clock) -> None:
    now_ms = 1_732_300_200_700
    with Signals() as signals, OpenStore(path) as store, ExitStack() as opened:
        listener = opened.enter_context(closing(listen(f"unix:{address}")))
        server = opened.enter_context(
            closing(Server(store, [listener], Watermarks(-1), signals, clock=clock))
        )
        own = self_metrics.SelfMetrics(server, lambda: now_ms)
        for _ in range(3):
            clock.now += 0.8 if now_ms % 1000 == 700 else 1
            now_ms += 800 if now_ms % 1000 == 700 else 1000
            server.timers.run()
        own.close()
        server.finish()
    (session,) = Store(path).sessions()
    assert session.rows().t_ms.tolist() == [1_732_300_201_500, 1_732_300_202_500, 1_732_300_203_500]
    assert session.end is not None


def test_the_docs_list_its_series() -> None:
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    assert {one.name for one in self_metrics.SERIES} == set(
        re.findall(r"^\| `(store_\w+)", text, re.MULTILINE)
    )
    for one in self_metrics.SERIES:
        assert one.help in text


# --- in process: with a fake clock ----------------------------------------------------------------


def test_silent_and_stalled_connections_are_closed_and_quiet_ones_are_not(
    serving: Server, clock: Clock, address: str, begin_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    _silent, stalled, quiet = (connected(address) for _ in range(3))
    turns(serving)
    stalled.sendall(data(begin_ms, 3, end=False, instance="stalled") + b"\x92\xcf\x00")
    quiet.sendall(data(begin_ms, 3, end=False))
    turns(serving)
    assert serving.connections == 3
    clock.now += server_module.PATIENCE_S - 1
    serving.timers.run()
    assert serving.connections == 3
    clock.now += server_module.PATIENCE_S / 3
    serving.timers.run()
    assert serving.connections == 1
    assert serving.errors["stalled"] == 2
    assert caplog.text.count("no complete message for 30 s") == 2
    quiet.sendall(stream.encode(ticks(4, begin_ms)[3]))
    turns(serving)
    assert serving.counts.stored == 7


def test_blocked_for_five_minutes_the_writer_gets_the_reserve(
    serving: Server, clock: Clock, address: str, begin_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal may be empty: then nothing waits for a roll-up, and no file would ever be evicted."""
    reserve = serving.keeper.folder.layout.reserve
    serving.store.upkeep.keep_reserve()
    serving.store.upkeep.look()
    peer = connected(address)
    disk = FaultyDisk(serving.keeper.folder.layout.path, 1)
    with disk.installed(monkeypatch):
        disk.capacity = disk.used()
        peer.sendall(data(begin_ms, 3, end=False))
        turns(serving)
        for _ in range(5):
            assert serving.is_blocked
            assert reserve.exists()
            clock.now += 60
            serving.timers.run()
        clock.now += 1
        serving.timers.run()
        assert not serving.is_blocked
    turns(serving)
    assert serving.counts.stored == 3


def test_a_flood_is_read_in_turn_with_the_others(serving: Server, address: str, begin_ms: int) -> None:
    flood, other = connected(address), connected(address)
    turns(serving)
    flood.setblocking(False)
    message = data(begin_ms, 3000, end=False, instance="flood")
    sent = flood.send(message)
    other.sendall(data(begin_ms, 5, end=False))
    serving.turn(0)
    # After one turn the other's five are stored, whatever the size of the flood.
    (session,) = [
        one for one in Store(serving.keeper.folder.layout.path).sessions() if one.instance == "vm-1"
    ]
    assert session.rows().t_ms.size == 5
    assert sent > 64 * 1024
    assert serving.counts.stored < 5 + 64 * 1024 // 140 + 1


def test_timers(clock: Clock) -> None:
    timers, called = Timers(clock), []
    assert timers.seconds_left() is None
    timers.every(1.0, lambda: called.append("a"))
    timers.every(2.5, lambda: called.append("b"))
    assert timers.seconds_left() == 1.0
    timers.run()
    assert called == []
    clock.now += 1
    timers.run()
    assert called == ["a"]
    clock.now += 100  # asleep for long: each once
    timers.run()
    assert called == ["a", "a", "b"] or called == ["a", "b", "a"]
    assert timers.seconds_left() == 1.0


def test_memory_of_a_quiet_producer(path: Path, address: str, begin_ms: int) -> None:
    """Two hundred of them: the kernel's figure for each, with an open session."""
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")

        def more(first: int, count: int) -> list[socket.socket]:
            peers = []
            for number in range(first, first + count):
                peer = connected(address)
                peer.sendall(data(begin_ms, 0, end=False, instance=f"vm-{number}"))
                for one in ticks(3, begin_ms):
                    peer.sendall(stream.encode(one))
                peers.append(peer)
            read_to(process, path, f"vm-{first + count - 1}", begin_ms + 2000)
            return peers

        def resident() -> int:
            status = Path(f"/proc/{process.pid}/statm").read_text().split()
            return int(status[1]) * os.sysconf("SC_PAGESIZE")

        peers = more(0, 100)
        before = resident()
        peers += more(100, 200)
        assert (resident() - before) / 200 < 8192
        assert len(peers) == 300
