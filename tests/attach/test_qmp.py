"""QMP: block metrics and the end of a real QEMU, and answers that no QEMU would send."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.programs import fetch
from rondo_tools.attach.naming import Identity, PathTemplate
from rondo_tools.attach.sources import qmp
from rondo_tools.attach.sources.adapters import RefusedError, Target
from rondo_tools.attach.sources.readings import Report, Totals
from tests.support.attach import disk_guest
from tests.support.attach.attach_host import ATTACH, Got, Receiver, needs_kvm_and_bpf, own, watching
from tests.support.needs import PATIENCE_S, must_have

READS, WRITES = 5, 7
DURATION = "blk_request_duration_ns"
BLOCK = {
    'blk_requests_total{op="read"}': READS,
    'blk_requests_total{op="write"}': WRITES,
    'blk_requests_total{op="flush"}': 1,
    'blk_bytes_total{direction="read"}': READS * 512,
    'blk_bytes_total{direction="write"}': WRITES * 512,
}


class Qemu:
    """A QEMU with two QMP sockets: one for the watcher, one for the test. Its guest waits for `go_on`.

    Its `name` is made `own`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        name = own(name)
        try:
            program = fetch("qemu-system-x86_64")
        except LookupError as exc:
            must_have(str(exc))
        self.socket, self._own = folder / f"{name}.sock", folder / f"{name}.own"
        image, disk = folder / "bios", folder / f"{name}.disk"
        image.write_bytes(disk_guest.bios(READS, WRITES))
        disk.write_bytes(bytes(1 << 20))
        sockets = [f"unix:{path},server=on,wait=off" for path in (self.socket, self._own)]
        self.process = subprocess.Popen(
            [program, "-name", f"guest={name}", "-S", "-qmp", sockets[0], "-qmp", sockets[1],
             *disk_guest.arguments(image, disk)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while not self._own.exists() and self.process.poll() is None:
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, command: str) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self._own))
            with peer.makefile("rwb") as file:
                file.readline()
                for name in ("qmp_capabilities", command):
                    file.write(json.dumps({"execute": name}).encode() + b"\n")
                    file.flush()
                    while "event" in (answer := json.loads(file.readline())):
                        pass
        result: dict[str, object] = answer
        return result

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"x")
        self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdin is not None
        self.process.stdin.close()


def has_used_its_disk(got: Got) -> bool:
    return got.last().get('blk_requests_total{op="flush"}') == 1


@contextmanager
def qemu(name: str, folder: Path) -> Iterator[Qemu]:
    vm = Qemu(name, folder)
    try:
        yield vm
    finally:
        vm.close()


def test_a_disk_and_the_end_of_a_real_qemu(receiver: Receiver, tmp_path: Path) -> None:
    flags = ("--output", receiver.address, "--interval", "200ms", "--qmp", f"{tmp_path}/{{name}}.sock")
    with watching(*flags), qemu("disk", tmp_path) as vm:
        (before,) = receiver.wait("disk", ticks=3)
        assert vm.ask("query-status")["return"]  # the second socket is free
        vm.ask("cont")
        receiver.wait_for("disk", has_used_its_disk)
        vm.go_on()
        (session,) = receiver.wait("disk", ended=1)
    assert session.end is not None
    assert session.end.reason == "poweroff"
    assert session.last() | BLOCK == session.last()
    assert any(row.get(DURATION, 0) > 0 for row in session.rows)
    assert before.header.start_ms == session.header.start_ms  # the same session, with more series


def test_a_hanging_qemu_delays_no_tick(receiver: Receiver, tmp_path: Path) -> None:
    flags = ("--output", receiver.address, "--interval", "200ms", "--qmp", f"{tmp_path}/{{name}}.sock")
    with watching(*flags), qemu("hung", tmp_path) as hung, qemu("well", tmp_path) as well:
        hung.ask("cont")
        receiver.wait_for("hung", has_used_its_disk)
        hung.process.send_signal(signal.SIGSTOP)
        ticks = len(receiver.of("hung")[-1].ticks)
        well.ask("cont")
        receiver.wait_for("well", has_used_its_disk)
        (session,) = receiver.wait("hung", ticks=ticks + 10)
        assert session.last() | BLOCK == session.last()  # counters repeat their last value
        assert math.isnan(session.last()[DURATION])  # a mean has no value
        hung.process.kill()
        receiver.wait("hung", ended=1)


def test_block_counters_of_a_late_vm_begin_at_0(receiver: Receiver, tmp_path: Path) -> None:
    with qemu("late", tmp_path) as vm:
        vm.ask("cont")
        while b'"flush_operations": 1' not in json.dumps(vm.ask("query-blockstats")).encode():
            time.sleep(0.01)
        with watching("--output", receiver.address, "--qmp", f"{tmp_path}/{{name}}.sock"):
            receiver.wait_for("late", lambda got: 'blk_requests_total{op="read"}' in got.last())
            (session,) = receiver.of("late")
    assert session.last()['blk_requests_total{op="read"}'] == 0
    assert session.labels["attached"] == "late"


def test_list_shows_the_qmp_adapter_and_refusals(tmp_path: Path) -> None:
    needs_kvm_and_bpf()
    with qemu("listed", tmp_path) as vm:

        def look(path: str) -> tuple[str, dict[str, dict[str, str]]]:
            flags = ["list", "--format", "json", "--qmp", path]
            done = subprocess.run([*ATTACH, *flags], capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            (one,) = [one for one in found["vms"] if one["pid"] == vm.pid]
            return one["adapters"], {one["source"]: one for one in found["refused"]}

        adapters, refused = look(f"{tmp_path}/{{name}}.sock")
        assert (adapters, own("listed, qmp") in refused) == ("qmp", False)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(vm.socket))
            assert client.recv(1 << 16)
            adapters, refused = look(f"{tmp_path}/{{name}}.sock")
        assert adapters == ""
        assert "has a client" in refused[own("listed, qmp")]["why"]
        assert refused[own("listed, qmp")]["needs"] == "a second QMP socket, for rondo-attach alone"
        assert "does not exist" in look(f"{tmp_path}/{{name}}.none")[1][own("listed, qmp")]["why"]


# --- answers that no QEMU would send -------------------------------------------------------------

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
DONE = b'{"return": {}}\n'


def follow(*answers: bytes, path: str = "", greeting: bytes = GREETING) -> tuple[Report, Exception]:
    """The adapter's report of a server with these answers, one for each request."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        where = path or f"{folder}/vm.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, greeting, answers), daemon=True)
        thread.start()
        target = Target(os.getpid(), Identity("vm", "-name", "qemu"), 0.01)
        try:
            asyncio.run(qmp.QmpAdapter(PathTemplate(where.replace("vm.", "{name}."))).follow(target, report))
        except (OSError, EOFError, RefusedError) as exc:
            return report, exc
        finally:
            listener.close()
            thread.join(PATIENCE_S)
    raise AssertionError("it followed to no end")


def _serve(listener: socket.socket, greeting: bytes, answers: tuple[bytes, ...]) -> None:
    peer, _ = listener.accept()
    with peer:
        try:
            peer.sendall(greeting)
            for answer in answers:
                peer.recv(1 << 16)
                peer.sendall(answer)
        except OSError:
            pass


def stats(name: str = "disk0", **counters: object) -> bytes:
    return json.dumps({"return": [{"qdev": name, "device": "", "stats": counters}]}).encode() + b"\n"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ((DONE, b"nothing\n"), "invalid JSON"),
        ((DONE, b"[" * 100_000 + b"\n"), "invalid JSON"),
        ((DONE, b"[]\n"), "not a QMP message"),
        ((DONE, b"x" * (2 << 20)), "more than 1 MiB"),
        ((DONE, b'{"event": "RTC_CHANGE"}\n' * 400_000), "more than 4 MiB"),
        ((DONE, b'{"error": {"class": "CommandNotFound"}}\n'), "CommandNotFound"),
        ((b'{"error": {}}\n',), "error"),
        ((DONE, stats(rd_operations=1)), "closed the connection"),
        ((DONE, b'{"ret'), "closed the connection"),
    ],
)
def test_hostile_answers(answers: tuple[bytes, ...], why: str) -> None:
    _, refused = follow(*answers)
    assert why in str(refused)


def test_a_peer_that_is_not_qmp_is_refused() -> None:
    assert "does not speak QMP" in str(follow(greeting=b"{}\n")[1])


def test_invalid_numbers_count_as_nothing() -> None:
    answer = stats(rd_operations=-1, wr_operations="7", rd_bytes=1e300, wr_bytes=1 << 64, flush_operations=3)
    report, _ = follow(DONE, answer)
    assert report.reading is not None
    assert list(report.reading.counters.values()) == [0, 0, 3, 0, 0]


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["stats", "qdev", "device", "rd_bytes", "event", "data", "reason"]), inner)))  # fmt: skip
def test_any_json_has_devices(answer: object) -> None:
    for counters in qmp.devices_of([answer]).values():
        assert len(counters) == 8
    if isinstance(answer, dict):
        qmp.end_reason(answer)


def test_devices_may_be_added_removed_and_reset() -> None:
    totals = Totals(2)
    totals.add({"a": (5, 50), "b": (1, 10)})
    totals.add({"a": (6, 60)})  # b was taken out
    assert totals.sums == [7, 70]
    totals.add({"a": (2, 20), "b": (3, 30)})  # a is another disk now
    assert totals.sums == [11, 110]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}, "poweroff"),
        ({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}, "reset"),
        ({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-signal"}}, "signal"),
        ({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}}, ""),
        ({"event": "SHUTDOWN"}, ""),
        ({"event": "GUEST_PANICKED", "data": {}}, "shutdown"),
        ({"event": "RESUME"}, ""),
        ({"event": "STOP"}, None),
    ],
)
def test_the_end_reason_of_an_event(event: dict[str, object], reason: str | None) -> None:
    assert qmp.end_reason(event) == reason


def test_libvirts_socket_is_never_used(tmp_path: Path) -> None:
    folder = tmp_path / "libvirt" / "qemu"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "monitor.sock"))
        listener.listen()
        listener.setblocking(False)
        link = tmp_path / "vm.sock"
        link.symlink_to(folder / "monitor.sock")
        target = Target(os.getpid(), Identity("vm", "-name", "qemu"), 1)
        with pytest.raises(RefusedError, match="is libvirt's"):
            asyncio.run(qmp.QmpAdapter(PathTemplate(f"{tmp_path}/{{name}}.sock")).follow(target, Report()))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_socket_of_another_process_is_refused(tmp_path: Path) -> None:
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
    command = [sys.executable, "-uc", f"{code} print(); input()", str(tmp_path / "vm.sock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        target = Target(os.getpid(), Identity("vm", "-name", "qemu"), 1)
        with pytest.raises(RefusedError, match=f"belongs to process {other.pid}, not {os.getpid()}"):
            asyncio.run(qmp.QmpAdapter(PathTemplate(f"{tmp_path}/{{name}}.sock")).follow(target, Report()))


@pytest.mark.parametrize("name", ["../../run/libvirt/x", "..", "a/b"])
def test_a_name_cannot_leave_the_folder(name: str) -> None:
    target = Target(os.getpid(), Identity(name, "-name", "qemu"), 1)
    with pytest.raises(RefusedError, match="cannot be the name of a file"):
        asyncio.run(qmp.QmpAdapter(PathTemplate("/run/qmp/{name}")).follow(target, Report()))
