"""rondo-attach and real QEMUs: VMs of a second, and the cost of a QMP socket.

    scripts/bench.py qemu

Strategy: fifty QEMUs run two at a time, with as many port exits each as take about a second. rondo-attach
watches them and sends to a rondo-store. The peers are two of Debian's prometheus-process-exporter, which
identify a VM by the name on its command line; one is scraped every second, one every 15 s, like Prometheus
does. An exporter reads /proc when it is scraped, so a scrape sees a VM if it shows its process.

The cost of QMP is rondo-attach's CPU time with the sockets of sleeping QEMUs, less that without, alternately.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.attach import SETTLE_S, a_tick_us, watching
from bench.measure import serving
from bench.report import Peer, Report, run_part
from devtools import exit_loop
from devtools.programs import fetch
from rondo_tools.store.reader import Store

VMS, AT_ONCE = 50, 2
LOOP_EXITS = 3  # of the guest besides its loop: 'S', 'E' and the exit device
CALIBRATION = 100_000
LOOP_S = 0.8  # a second without QEMU's own start
SCRAPES_S = (1.0, 15.0)
QMP_VMS, ROUNDS = 10, 3
PATIENCE_S = 60.0
EXPORTER = "prometheus-process-exporter"
IO = 'vcpu_exits_total{reason="io"}'
CONFIG = """process_names:
  - name: "{{.Matches.Name}}"
    cmdline: ["-name guest=(?P<Name>bench-[0-9-]+)"]
"""
SEEN = re.compile(r'^namedprocess_namegroup_num_procs\{groupname="(bench-[0-9-]+)"\} [1-9]', re.MULTILINE)


def main(report: Report, arguments: list[str]) -> None:
    argparse.ArgumentParser(prog="bench.py qemu", description="Measure rondo-attach with QEMU.").parse_args(
        arguments
    )
    if os.geteuid() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        report.note("skipped: it needs root, for VMs to watch with CAP_BPF, and /dev/kvm")
        return
    try:
        program = fetch("qemu-system-x86_64")
        exits = round(exit_loop.qemu(CALIBRATION).exits_per_s * LOOP_S)
    except LookupError as exc:
        report.note(f"skipped: {exc}")
        return
    with tempfile.TemporaryDirectory(prefix="rondo-bench-qemu-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        address = folder / "store.sock"
        with serving(folder / "store", str(address), "--no-health"):
            address.chmod(0o666)
            short_lives(report, program, exits, folder)
            qmp(report, program, folder)


# --- VMs of a second ------------------------------------------------------------------------------


class Life(NamedTuple):
    """A VM's data in the store."""

    ticks: int
    seconds: float
    exits: int


def short_lives(report: Report, program: Path, exits: int, folder: Path) -> None:
    names = [f"bench-{os.getpid()}-{number}" for number in range(VMS)]
    image = folder / "bios"
    image.write_bytes(exit_loop.bios(exits))
    with ExitStack() as opened:
        opened.enter_context(watching(f"{folder}/store.sock", f"name=bench-{os.getpid()}-*"))
        try:
            scraped = [opened.enter_context(scraping(folder, interval_s)) for interval_s in SCRAPES_S]
        except LookupError as exc:
            report.note(f"without the peer: {exc}")
            scraped = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pool.map(lambda name: start(program, name, "-bios", image).wait(), names)
        lives = stored(folder / "store", names)
    report.row("a life, the median", statistics.median(life.seconds for life in lives), "s")
    ticks = statistics.fmean(life.ticks for life in lives)
    for interval_s, samples in zip(SCRAPES_S, scraped, strict=False):
        of_each, peer = [samples[name] for name in names], f"{EXPORTER}, scraped every {interval_s:g} s"
        report.row(
            f"VMs seen of {VMS}; scrapes every {interval_s:g} s", len(lives), "VMs",
            peer=Peer(peer, sum(map(bool, of_each))), more_is_better=True,
        )  # fmt: skip
        report.row(
            f"ticks of each, the mean; scrapes every {interval_s:g} s", ticks, "ticks",
            peer=Peer(peer, statistics.fmean(of_each)), more_is_better=True,
        )  # fmt: skip
    report.row(
        f"VMs of {VMS} with all of their port exits, the first and the last included",
        sum(life.exits == exits + LOOP_EXITS for life in lives),
        "VMs",
        at_least=VMS,
    )


def start(program: Path, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """A QEMU with only the debug console and the exit device of exit_loop's guest."""
    return subprocess.Popen(
        [
            *(program, "-name", f"guest={name}", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-no-reboot", "-machine", "pc,accel=kvm", "-m", "16", *arguments),
            *("-chardev", "null,id=out", "-device", "isa-debugcon,iobase=0xe9,chardev=out"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # warnings of features that this processor lacks
    )


def stored(folder: Path, names: list[str]) -> list[Life]:
    """The lives in a store, once all of these have ended, or after a time-out."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        sessions = [one for one in Store(folder).sessions() if one.instance in names]
        if len({one.instance for one in sessions if one.end}) == len(names) or time.monotonic() > until_s:
            break
        time.sleep(0.2)
    lives = []
    for session in sessions:
        rows, end = session.rows(), session.end
        seconds = ((end.t_ms if end else int(rows.t_ms[-1])) - session.header.start_ms) / 1000
        at = [str(series) for series in session.header.series].index(IO)
        lives.append(Life(len(rows.values), seconds, int(rows.values[-1, at])))
    return lives


@contextmanager
def scraping(folder: Path, interval_s: float) -> Iterator[Counter[str]]:
    """An exporter and its scraper; yields the number of scrapes with each VM. Raises LookupError."""
    config, port = folder / "process-exporter.yml", free_port()
    config.write_text(CONFIG)
    command = [str(fetch(EXPORTER)), f"-web.listen-address=127.0.0.1:{port}", f"-config.path={config}"]
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def scrape() -> None:
        began_s = time.monotonic()
        while not stop.wait(interval_s - (time.monotonic() - began_s) % interval_s):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                    seen.update(SEEN.findall(page.read().decode()))
            except OSError:
                pass  # a failed scrape, as in Prometheus

    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as exporter:
        thread = threading.Thread(target=scrape)
        try:
            wait_for_port(port)
            thread.start()
            yield seen
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()
            exporter.terminate()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for_port(port: int) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > until_s:
                raise LookupError(f"{EXPORTER} does not listen") from None
            time.sleep(0.05)
        else:
            return


# --- QMP ------------------------------------------------------------------------------------------


def qmp(report: Report, program: Path, folder: Path) -> None:
    """Measure the same QEMUs alternately with QMP and without; each has a disk."""
    image, match = folder / "sleeping", f"name=bench-qmp-{os.getpid()}-*"
    image.write_bytes(exit_loop.bios_of(b"\xf4\xeb\xfd"))
    disk = ("-blockdev", "null-co,node-name=disk,size=1048576", "-device", "virtio-blk-pci,drive=disk")
    with_qmp: list[float] = []
    without: list[float] = []
    with ExitStack() as opened:
        for number in range(QMP_VMS):
            name = f"bench-qmp-{os.getpid()}-{number}"
            path = folder / f"{name}.sock"
            monitor = ("-qmp", f"unix:{path},server=on,wait=off")
            process = start(program, name, "-bios", image, *disk, *monitor)
            opened.callback(process.wait)
            opened.callback(process.kill)
            while not path.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"QEMU ended with {process.returncode}")
                time.sleep(0.01)
            path.chmod(0o666)
        for _ in range(ROUNDS):
            for flags, took_us in (((), without), (("--qmp", f"{folder}/{{name}}.sock"), with_qmp)):
                with watching(f"{folder}/store.sock", match, *flags) as pid:
                    time.sleep(SETTLE_S)
                    took_us.append(a_tick_us(pid, QMP_VMS, 10.0))
    report.row(
        f"a VM and tick with QMP, {QMP_VMS} QEMUs", statistics.median(with_qmp), "µs of CPU",
        peer=Peer("without", statistics.median(without)),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_part(main))
