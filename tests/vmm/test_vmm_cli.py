"""rondo-vmm as its user meets it: flags, ends, exit statuses, and a stream that is whole."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Unpack

import pytest

from rondo_tools.catalog import CPU, SERIES
from rondo_tools.stream import Decoder, End, Header, Tick
from rondo_tools.vmm import cli, config
from rondo_tools.vmm.boards.builtin import BuiltinBoard
from rondo_tools.vmm.boot.builtin import Entry
from rondo_tools.vmm.memory import GuestMemory
from tests.support.fixtures import ProcessOptions, Run, Start
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent.parent
VMM = [sys.executable, str(ROOT / "bin" / "rondo-vmm")]


class Stream(NamedTuple):
    header: Header
    ticks: list[Tick]
    end: End

    def values(self, at: int = -1) -> dict[str, float]:
        values = struct.unpack(f"<{len(self.header.series)}d", self.ticks[at].values)
        return {str(series): value for series, value in zip(self.header.series, values, strict=True)}


def decode(data: bytes) -> Stream:
    decoder = Decoder()
    header, *ticks, end = decoder.feed(data)
    decoder.close()
    assert isinstance(header, Header)
    assert isinstance(end, End)
    only_ticks = [tick for tick in ticks if isinstance(tick, Tick)]
    assert only_ticks == ticks
    return Stream(header, only_ticks, end)


@pytest.fixture
def vmm() -> Iterator[Start]:
    """Start a rondo-vmm; whatever becomes of the test, it does not outlive it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path, **options: Unpack[ProcessOptions]) -> subprocess.Popen[bytes]:
        pipes: ProcessOptions = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen([*VMM, *arguments], **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until_it_runs(process: subprocess.Popen[bytes]) -> None:
    """Wait for the first line of the guest."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"rondo guest"):
            return
    pytest.fail("the guest did not start")


@pytest.mark.parametrize("accelerator", ["auto", "soft"])
def test_the_stream_has_the_whole_session(vmm: Start, accelerator: str) -> None:
    if accelerator == "soft":
        pytest.importorskip("unicorn")
    process = vmm("--accel", accelerator, "--duration", "4s", "--instance", "vm-1")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    stream = decode(out)
    assert stream.header.instance == "vm-1"
    assert stream.header.interval_ms == 1000
    assert stream.header.series == (*SERIES, *CPU)
    assert stream.end.reason == "poweroff"
    times = [tick.t_ms for tick in stream.ticks]
    assert times == sorted(set(times))
    assert times[-1] == stream.end.t_ms
    slots = {t // 1000 for t in times}
    assert slots >= set(range(stream.header.start_ms // 1000 + 1, stream.end.t_ms // 1000 + 1))
    assert all(t % 1000 == 0 for t in times[:-1])
    last = stream.values()
    assert last['vcpu_exits_total{reason="hlt"}'] > 0
    assert last['blk_requests_total{op="read"}'] == last['blk_requests_total{op="write"}'] > 0
    assert last['blk_requests_total{op="flush"}'] > 0
    assert last['blk_bytes_total{direction="write"}'] >= 512 * last['blk_requests_total{op="write"}']
    assert last['vcpu_exits_total{reason="mmio"}'] >= 3 * last['blk_requests_total{op="write"}']
    assert last['vcpu_exits_total{reason="shutdown"}'] == 0
    assert last["vmm_uptime_seconds"] > 2
    for earlier, later in zip(stream.ticks, stream.ticks[1:], strict=False):
        assert struct.unpack("<5d", earlier.values[:40]) <= struct.unpack("<5d", later.values[:40])
    for phase in (b"phase: cpu", b"phase: idle", b"phase: io", b"phase: mixed", b"power off"):
        assert phase in err
    assert re.search(rb"ran \d\.\d s, \d+ ticks; exits: io \d+, .*; ended by poweroff", err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_guest_and_the_stream_is_complete(vmm: Start, number: signal.Signals) -> None:
    process = vmm("--duration", "1h")
    until_it_runs(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    stream = decode(out)
    assert stream.end.reason == "signal"
    assert stream.ticks[-1].t_ms == stream.end.t_ms
    assert b"ended by signal" in err


def test_text_is_a_line_a_tick_with_every_series(vmm: Start) -> None:
    process = vmm("--duration", "300ms", "--text", "--label", "rack=a 1", "--serial", "none")
    out, _ = process.communicate(timeout=PATIENCE_S)
    head, *ticks, end = out.decode().splitlines()
    assert head.startswith("# rondo instance=")
    assert head.endswith(" interval=1s rack=a 1")
    assert end.startswith("# end poweroff ")
    for line in ticks:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line)
        for series in (*SERIES, *CPU):
            assert f" {series}=" in line
    assert 'vcpu_exits_total{reason="other"}=0' in ticks[-1]


def test_text_ends_with_its_reader(vmm: Start) -> None:
    process = vmm("--duration", "1h", "--interval", "20ms", "--text", "--serial", "none")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0


def test_a_reader_that_is_gone_is_logged_and_the_vm_keeps_running(
    vmm: Start,
) -> None:
    process = vmm("--duration", "1s", "--interval", "100ms")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert b"ended by poweroff" in err
    assert err.count(b"the reader of standard output is gone") == 1
    assert b"ticks were not delivered" in err
    assert b"Traceback" not in err


def test_a_stalled_reader_delays_no_vm_and_its_ticks_are_kept(
    vmm: Start,
) -> None:
    process = vmm("--duration", "2s", "--interval", "10ms")  # more than a pipe of one page holds
    assert process.stdout is not None
    import fcntl

    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    assert process.stderr is not None
    err = b""
    for line in process.stderr:  # the guest lives through all of its phases, unread
        err += line
        if line == b"power off\n":
            break
    out, _ = process.communicate(timeout=PATIENCE_S)
    stream = decode(out)
    assert stream.end.reason == "poweroff"
    assert len(out) > 4096
    assert process.returncode == 0


def test_undelivered_ticks_are_counted(vmm: Start) -> None:
    process = vmm("--duration", "300ms", "--output", "/dev/full", "--linger", "200ms")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert b"/dev/full: No space left on device; trying again" in err
    assert re.search(rb"/dev/full: (\d+) of \1 ticks? (was|were) not delivered", err)


def opened_by(process: subprocess.Popen[bytes]) -> list[Path]:
    """The files that a process has open."""
    links = Path(f"/proc/{process.pid}/fd").iterdir()
    found = []
    for link in links:
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(link.readlink())
    return found


def test_a_second_signal_ends_the_lingering(vmm: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    process = vmm(
        "--duration", "1h", "--disk", disk, "--linger", "1h", "--output", f"unix:{tmp_path}/nobody"
    )  # fmt: skip
    until_it_runs(process)
    process.send_signal(signal.SIGTERM)
    while disk in opened_by(process):  # the guest has not ended
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert re.search(rb"ticks? (was|were) not delivered", err)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener
    path.unlink()


def test_a_store_restarted_during_a_run_misses_nothing(vmm: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(path) as listener:
        process = vmm("--duration", "1h", "--interval", "20ms", "--output", f"unix:{path}")
        with listener.accept()[0] as first:
            head = first.recv(4096)
            while len(head) < 6000:
                head += first.recv(4096)
    # It is killed, and gone for a while.
    assert process.stderr is not None
    assert any(b"trying again" in line for line in process.stderr)
    with listening(path) as listener, listener.accept()[0] as second, second.makefile("rb") as file:
        process.send_signal(signal.SIGTERM)
        stream = decode(file.read())
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert f"s, {len(stream.ticks)} ticks;".encode() in err
    decoder = Decoder()
    header, *before = decoder.feed(head)
    assert header == stream.header
    assert stream.ticks[: len(before)] == before
    assert stream.end.reason == "signal"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("0f0b", 1, "shutdown"),  # ud2
        ("e900000020", 70, "error"),  # a jump to where no memory is
        ("b0fee664ebfe", 0, "reset"),  # mov al, 0xfe; out 0x64, al
        ("ebfe", 0, "deadline"),
    ],
)
def test_the_end_of_the_guest_is_the_exit_status(
    code: str,
    status: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def boot(memory: GuestMemory) -> Entry:
        memory.write(0x1000, bytes.fromhex(code))
        made_ms.append(time.time_ns() // 1_000_000)
        return Entry(0x1000, 0x8000)

    made_ms: list[int] = []

    monkeypatch.setattr(config, "BuiltinBoard", partial(BuiltinBoard, boot=boot))
    monkeypatch.setattr(config, "BUILTIN_MARGIN_MS", 50)
    assert cli.main(["--duration", "100ms", "--output", str(tmp_path / "stream")]) == status
    stream = decode((tmp_path / "stream").read_bytes())
    assert stream.end.reason == reason
    assert stream.header.start_ms >= made_ms[0], "the making of a VM is no part of its life"
    err = capsys.readouterr().err
    assert f"ended by {reason}" in err
    assert ("ip=0x" in err) == (status != 0)
    assert "Traceback" not in err


def test_two_vms_cannot_share_a_disk(vmm: Start, run: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    first = vmm("--duration", "1h", "--disk", disk, "--output", os.devnull)
    until_it_runs(first)
    second = run("rondo-vmm", "--disk", disk, "--output", os.devnull)
    assert second.returncode == 69
    assert b"in use by another VM" in second.stderr


def test_the_given_disk_is_written_to(run: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    done = run("rondo-vmm", "--duration", "500ms", "--disk", disk, "--serial", "none")
    assert done.returncode == 0
    assert disk.stat().st_size == 1 << 20
    assert any(disk.read_bytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "64K"], "--memory: 65536 bytes are not a multiple of 4K from 128K to 3328M"),
        (["--memory", "4G"], "--memory: 4294967296 bytes are not a multiple of 4K"),
        (["--memory", "131073"], "--memory: 131073 bytes are not a multiple"),
        (["--memory", "much"], "argument --memory: 'much' is not a size"),
        (["--disk", "a", "--disk", "b"], "--disk: the built-in guest has one"),
        (["--disk", "a:ro"], "--disk a:ro: the built-in guest writes to its disk"),
        (["--initramfs", "a"], "--initramfs is for Linux: give --kernel too"),
        (["--cmdline", "a"], "--cmdline is for Linux"),
        (["--cmdline-only"], "--cmdline-only is for Linux"),
        (["--cpus", "2"], "--cpus is for Linux"),
        (["--console"], "--console is for Linux"),
        (["--kernel", "a", "--accel", "soft"], "--kernel needs KVM"),
        (["--kernel", "a", "--cpus", "0"], "--cpus 0: a guest has 1 to 64"),
        (["--kernel", "a", *["--disk", "b"] * 8], "--disk: a guest has 7 at most"),
        (["--kernel", "a", "--memory", "16M"], "--memory: 16777216 bytes are not a multiple of 4K from 32M"),
        (["--interval", "1ms"], "argument --interval: '1ms' is too short"),
        (["--duration", "soon"], "argument --duration: 'soon' is not a duration"),
        (["--label", "rack"], "argument --label: 'rack' is not NAME=VALUE"),
        (["--label", "9=x"], "--label: '9' is not a label name"),
        (["--label", "a="], "--label: 'a' is empty"),
        (["--label", "a=1", "--label", "a=2"], "--label: 'a' is given more than once"),
        (["--label", "reason=x"], "--label: the label 'reason' of"),
        (["--instance", ""], "--instance: 'instance' is empty"),
        (["--accel", "xen"], "--accel: 'xen' is none of kvm, soft, auto"),
        (["--output", "/nowhere/x"], "--output /nowhere/x: No such file"),
        (["--text", "--output", "unix:/x"], "--text is for people"),
        (["--serial", "/nowhere/x"], "--serial /nowhere/x: No such file"),
    ],
)
def test_an_invalid_flag_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = cli.main(arguments)
    except SystemExit as exc:
        status = exc.code
    assert status == 64
    assert message in capsys.readouterr().err


def test_unread_outputs_cause_no_delay(vmm: Start, tmp_path: Path) -> None:
    for name in ("stream", "console"):
        os.mkfifo(tmp_path / name)
    process = vmm(
        "--duration", "300ms", "--linger", "10ms",
        "--output", tmp_path / "stream", "--serial", tmp_path / "console",
    )  # fmt: skip
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert b"ended by poweroff" in err


@pytest.mark.parametrize("flag", ["--output", "--serial"])
def test_a_socket_as_a_file_is_refused(run: Run, tmp_path: Path, flag: str) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    done = run("rondo-vmm", "--duration", "1s", flag, path)
    assert done.returncode == 64
    assert (
        f"{flag} {path}: this is a socket; a stream goes to it with --output unix:{path}"
        in done.stderr.decode()
    )


def test_a_terminal_gets_no_binary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    assert cli.main(["--duration", "1s"]) == 64
    message = capsys.readouterr().err
    assert "rondo-vmm | rondo-store vmm_metrics" in message
    assert "--text" in message
    assert "--output FILE" in message


def test_a_closed_standard_output_is_reported(vmm: Start) -> None:
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *VMM, "--duration", "1s"], capture_output=True, timeout=PATIENCE_S
    )
    assert process.returncode == 64
    assert b"standard output is closed" in process.stderr


def test_the_help_has_examples(run: Run) -> None:
    text = run("rondo-vmm", "--help").stdout.decode()
    for flag in (
        *("--accel", "--duration", "--interval", "--instance", "--label", "--memory", "--disk"),
        *("--serial", "--output", "--text", "--linger", "--kernel", "--initramfs", "--cmdline"),
        *("--cmdline-only", "--cpus", "--console"),
    ):
        assert flag in text
    assert "rondo-vmm --duration 45 | rondo-store vmm_metrics" in text
    assert "WRITES to it" in text


def test_only_needed_modules_are_imported() -> None:
    """A short VM must start fast; the store's and the push's libraries are not its own."""
    code = (
        "import sys; from rondo_tools.vmm.cli import main;"
        "main(['--duration', '50ms', '--output', '/dev/null']); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=PATIENCE_S)
    loaded = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "rondo_tools" in loaded
    assert "rondo_tools.vmm.boards.pc" not in done.stdout.decode().split()  # nor is what Linux needs
    assert not loaded & {"numpy", "google", "requests", "snappy", "urllib3", "plotext"}


def test_no_value_in_text_is_a_dash() -> None:
    from rondo_tools.producer.text import TextEncoder

    encoder = TextEncoder()
    encoder.encode(Header("x", 1, (), 1000, SERIES))
    values = struct.pack("<16d", *([math.nan] * 3), *range(13))
    line = encoder.encode(Tick(1_700_000_000_123, values)).decode()
    assert line.startswith('2023-11-14T22:13:20.123Z vcpu_exits_total{reason="io"}=- ')
    assert line.count("=-") == 3
