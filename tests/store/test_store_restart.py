"""rondo-store killed with -9 and started again while VMs run: not one second of any is lost.

Producers at once: real VMs, and seventeen more that send through rondo-vmm's own output, ten ticks a
second. Each keeps what it sent, to compare.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.producer.address import UnixAddress
from rondo_tools.producer.link import Link
from rondo_tools.store.reader import Store
from rondo_tools.stream import End, Header, Tick
from rondo_tools.vmm.output import OutputThread
from tests.support.needs import PATIENCE_S
from tests.support.store.store_host import started, wait_for_log
from tests.support.store.stream_model import check

VMM = [sys.executable, str(Path(__file__).parents[2] / "bin" / "rondo-vmm")]
TIERS = "100ms:1m,1s:10m,10s:6h"
PRODUCERS = 17
PAUSE_S = 2.0  # between two kills: some ticks of each are stored, most of the time


class Producer:
    """Sends ten ticks a second as rondo-vmm does, without a VM."""

    def __init__(self, number: int, address: str) -> None:
        self.header = Header(f"light-{number}", time.time_ns() // 1_000_000, (), 100, SERIES)
        self.sent: list[Tick] = []
        self._output = OutputThread(Link(UnixAddress(address), f"light-{number}"))
        self._output.start(stream.encode(self.header))

    def tick(self) -> None:
        count = float(len(self.sent))
        values = struct.pack(f"<{len(SERIES)}d", *(count * 16 + column for column in range(len(SERIES))))
        one = Tick(time.time_ns() // 1_000_000, values)
        self.sent.append(one)
        self._output.put(stream.encode(one))

    def finish(self) -> bool:
        """End; whether all arrived."""
        self._output.finish(stream.encode(End("poweroff", time.time_ns() // 1_000_000)))
        return self._output.wait(PATIENCE_S) and self._output.delivered


@pytest.mark.parametrize(("kills", "machines"), [(4, 1), pytest.param(60, 3, marks=pytest.mark.long)])
def test_not_one_second_is_lost(tmp_path: Path, kills: int, machines: int) -> None:
    path, address = tmp_path / "store", str(tmp_path / "sock")
    flags = ("--no-health", "--listen", f"unix:{address}", "--tiers", TIERS)
    killed, over = threading.Event(), threading.Event()

    def keep_killing() -> None:
        for number in range(kills + 1):
            with started(path, *flags, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
                wait_for_log(process, "listening")
                if number == kills:
                    killed.set()
                over.wait(PAUSE_S if number < kills else None)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    vms = [
        subprocess.Popen(
            [
                *VMM,
                "--accel=soft",
                "--duration=1h",
                f"--instance=vm-{number}",
                f"--output=unix:{address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(machines)
    ]
    try:
        for vm in vms:
            wait_for_log(vm, "rondo guest")  # from now on a signal ends it well
        producers = [Producer(number, address) for number in range(PRODUCERS)]
        while not killed.is_set():
            for producer in producers:
                producer.tick()
            time.sleep(0.1)
        for vm in vms:
            vm.send_signal(signal.SIGTERM)
        assert all(producer.finish() for producer in producers)
        for vm in vms:
            _, text = vm.communicate(timeout=PATIENCE_S)
            assert vm.returncode == 0, text
    finally:
        over.set()
        killer.join()
        for vm in vms:
            vm.kill()
            vm.communicate()
    sessions = {session.instance: session for session in Store(path).sessions()}
    assert len(sessions) == machines + PRODUCERS
    for producer in producers:
        session = sessions[producer.header.instance]
        check(session, producer.sent)
        assert session.end is not None
    for number in range(machines):
        session = sessions[f"vm-{number}"]
        assert session.end is not None
        t_ms = session.rows().t_ms.tolist()
        # A tick on each second of its life, and one when it ended.
        assert all(one % 1000 == 0 for one in t_ms[:-1])
        seconds = sorted({one // 1000 for one in t_ms})
        assert seconds == list(range(seconds[0], seconds[-1] + 1))
        assert session.end.t_ms - t_ms[-1] <= 1000
