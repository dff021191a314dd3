#!/usr/bin/env python3
"""The whole pipe once: a VM, the store, the push, a real Prometheus; then a comparison of the samples.

Then the same for a QEMU VM that rondo-attach watches from outside, if there are KVM and QEMU. A live page
shows both meanwhile. The demo ends all that it starts. It leaves one folder, .demo/ in the checkout, for the
commands that it prints at the end; the next demo replaces it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools import ROOT
from devtools.demo_programs import KVM, QEMU, has_kvm, qemu
from devtools.evidence import evidence
from devtools.exit_loop import bios
from devtools.pipeline import pipeline, receiver, say, show
from devtools.receivers.prometheus import free_port
from rondo_tools.store.reader import Session, Store
from rondo_tools.units import format_size

INSTANCE = "demo-vm"
QEMU_INSTANCE = "demo-qemu"
QEMU_SECONDS = 5
QEMU_EXITS = 20_000_000  # some minutes: it ends by itself even if the demo is killed
METRICS = ".demo/vmm_metrics"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--duration", type=int, default=15, metavar="SECONDS", help="duration of the VM (default: 15)"
    )
    parser.add_argument("--accel", default="auto", help="as for rondo-vmm (default: auto)")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # a signal ends all that the demo started
    began = time.monotonic()
    shutil.rmtree(ROOT / METRICS, ignore_errors=True)
    with receiver() as running, live_page():
        push = ["rondo-push", "--remote-write", running.write_url]
        store = ["rondo-store", METRICS]

        def arrived(statuses: list[int], instance: str) -> bool:
            session = session_of(instance)
            if any(statuses) or session is None:
                say(f"\nThe pipeline ended with {statuses}.")
                return False
            return evidence(session, running.samples(f'{{instance="{instance}"}}'))

        vmm = ["rondo-vmm", "--instance", INSTANCE, "--duration", f"{arguments.duration}s"]
        vmm += ["--accel", arguments.accel] if arguments.accel != "auto" else []
        whole = arrived(pipeline(vmm, store, push), INSTANCE)
        program = qemu() if has_kvm() else None
        if program is None:
            why = f"there is no {QEMU} on the PATH" if has_kvm() else f"{KVM} does not open"
            say(f"\nNo QEMU VM for rondo-attach to watch: {why}.")
        else:
            say("\nNow a QEMU VM, which rondo-attach watches from outside. Without root it counts no exits.")
            with qemu_vm(program, min(QEMU_SECONDS, arguments.duration)) as pid:
                statuses = pipeline(["rondo-attach", "--pid", str(pid)], store, push)
            whole = arrived(statuses, QEMU_INSTANCE) and whole
        size = sum(file.stat().st_blocks * 512 for file in (ROOT / METRICS).rglob("*"))
        say(f"\nOn disk: {format_size(size)} for the whole store.")
        say("Another push has nothing left to send:")
        show("rondo-push", METRICS, "--remote-write", running.write_url, "--verbose")
        # Idle exits are few beside those of I/O: a plot of their own shows the second phase.
        for selector, height in (("vcpu_exits_total{%s}", 18), ('vcpu_exits_total{%s,reason="hlt"}', 11)):
            mine = selector % f'instance="{INSTANCE}"'
            frame = ["--height", str(height), "--width", str(columns())]
            show("rondo-query", METRICS, "plot", mine, "--rate", *frame)
    say(
        f"\n{'All of it arrived, to the last bit' if whole else 'SOMETHING IS MISSING'}; "
        f"{time.monotonic() - began:.0f} s in all. {on_disk()}"
    )
    say("\nTo go on from here:\n\n" + "\n".join(f"  {command}" for command in next_commands()))
    return 0 if whole else 1


def next_commands() -> list[str]:
    """Commands to try next in the checkout."""
    query = f"rondo-query {METRICS}"
    return [
        f"export PATH={shlex.quote(str(ROOT / '.venv/bin'))}:$PATH",
        f"{query} list",
        f"{query} top --range 1h",
        f"{query} read 'vcpu_exits_total{{reason=\"io\"}}' --rate",
        f"{query} plot blk_request_duration_ns",
        f"rondo-serve {METRICS} --listen tcp:127.0.0.1:9464    # then open http://127.0.0.1:9464/",
        "rondo-vmm --duration 5s --text",
    ]


def session_of(instance: str) -> Session | None:
    """The session of the VM with this name; None while the store has none."""
    return next((one for one in Store(ROOT / METRICS).sessions() if one.instance == instance), None)


@contextmanager
def live_page() -> Iterator[None]:
    """Run rondo-serve on the store, which rondo-store creates first."""
    make: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-store", METRICS, "--quiet"]
    subprocess.run(make, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    serve: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-serve", METRICS, "--quiet"]
    serve += ["--listen", f"tcp:127.0.0.1:{port}"]
    # Its own process group: Ctrl-C goes to the demo only, which ends it later.
    process = subprocess.Popen(serve, cwd=ROOT, stdin=subprocess.DEVNULL, process_group=0)
    try:
        while process.poll() is None and not answers(f"{url}health"):
            time.sleep(0.05)
        if process.poll() is None:
            say(f"Live page while this runs: {url}")
        yield
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def qemu_vm(program: Path, seconds: float) -> Iterator[int]:
    """A QEMU VM that only makes exits; yields its process id.

    It ends `seconds` after its first tick in the store.
    """
    left = threading.Event()

    def end() -> None:
        while process.poll() is None and session_of(QEMU_INSTANCE) is None:
            if left.wait(0.2):
                return
        left.wait(seconds)
        process.terminate()

    with tempfile.TemporaryDirectory(prefix="rondo-demo-") as folder:
        image = Path(folder, "bios")
        image.write_bytes(bios(QEMU_EXITS))
        command: list[str | Path] = [
            *(program, "-name", f"guest={QEMU_INSTANCE}", "-machine", "pc,accel=kvm", "-m", "16"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", image),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ]
        log_file = Path(folder, "qemu.log")
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, process_group=0)
        thread = threading.Thread(target=end)
        thread.start()
        try:
            yield process.pid
        finally:
            left.set()
            thread.join()
            process.terminate()
            process.wait()
        if session_of(QEMU_INSTANCE) is None:
            say(f"QEMU ended before rondo-attach saw it: {log_file.read_text(errors='replace').strip()}")


def on_disk() -> str:
    """The disk space of the packages and programs in the checkout, as du counts it."""
    sizes = []
    for name in (".venv", ".tools"):
        files = {(one.st_dev, one.st_ino): one.st_blocks for one in map(Path.lstat, (ROOT / name).rglob("*"))}
        sizes.append(f"{name} has {format_size(512 * sum(files.values()))}")
    return f"On disk {' and '.join(sizes)}."


def columns() -> int:
    return min(110, shutil.get_terminal_size((100, 24)).columns)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
