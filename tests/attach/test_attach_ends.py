"""Ended, undelivered sessions outlive a killed watcher."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.attach.ends import Ended, EndsFile
from rondo_tools.attach.self_metrics import SERIES
from rondo_tools.stream import End, Header, Tick, encode
from tests.support.attach.attach_host import Receiver, ServiceManager, small_guest


def _as_it_was(manager: ServiceManager, lives: str) -> None:
    pass


def _between_two_writes(manager: ServiceManager, lives: str) -> None:
    """Killed after it wrote the end, and before it removed the session from the kept file."""
    (manager.runtime / "lives").write_text(lives)


@pytest.mark.parametrize("harm", [_as_it_was, _between_two_writes])
def test_a_kill_loses_no_undelivered_end(
    harm: Callable[[ServiceManager, str], None], manager: ServiceManager
) -> None:
    """A VM ends while the store is away; the next watcher delivers the same end."""
    address = manager.runtime.parent / "store.sock"
    flags = ("--output", f"unix:{address}", "--match", "name=*over")
    with small_guest(name="over") as guest, manager.started(*flags) as watcher:
        guest.do("make", "run 1234")
        watcher.wait_for("over begins")
        while 'over"' not in (lives := (manager.runtime / "lives").read_text()):
            time.sleep(0.01)
        os.kill(guest.pid, signal.SIGKILL)
        guest.process.wait()
        watcher.wait_for("over ends")
        reason = re.search(r"over ends: (\w+)", watcher.log)
    harm(manager, lives)
    receiver = Receiver(address)
    try:
        with manager.started(*flags) as watcher:
            (session,) = receiver.wait("over", ended=1)
            assert watcher.stop() == 0
        assert len(receiver.of("over")) == 1
        assert session.end is not None
        assert reason is not None
        assert (session.end.reason, session.end.t_ms) == (reason[1], session.ticks[-1].t_ms)
        assert session.exits()["io"] == 1234
        assert session.last()["vmm_cpu_seconds_total"] > 0
        assert (manager.runtime / "ends").read_bytes() == b""
        with manager.started(*flags):
            pass
        assert len(receiver.of("over")) == 1
    finally:
        receiver.close()


def ended(number: int) -> Ended:
    header = Header(f"vm-{number}", 1, (("vmm", "qemu"),), 1000, SERIES[:2])
    return Ended(header, Tick(1_000 + number, bytes(16)), End("gone", 1_000 + number))


def add(file: EndsFile, numbers: range) -> None:
    for number in numbers:
        file.add(number, b"".join(encode(one) for one in ended(number) if one is not None))


def test_the_file_has_waiting_sessions_and_is_emptied_after_the_last(tmp_path: Path) -> None:
    file = EndsFile(tmp_path)
    assert file.take() == []
    add(file, range(3))
    file.drop(1)  # it stays in the file: sending it again does no harm
    assert EndsFile(tmp_path).take() == [ended(number) for number in range(3)]
    file.drop(0)
    file.drop(0)
    file.drop(2)
    assert (tmp_path / "ends").read_bytes() == b""
    add(file, range(5, 6))
    assert EndsFile(tmp_path).take() == [ended(5)]
    file.close()


def test_the_file_size_is_bounded_by_the_waiting_sessions(tmp_path: Path) -> None:
    file = EndsFile(tmp_path)
    add(file, range(1))
    for number in range(1, 1_000):
        add(file, range(number, number + 1))
        file.drop(number)
    assert len(EndsFile(tmp_path).take()) <= 110
    assert EndsFile(tmp_path).take()[0] == ended(0)
    file.close()


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-7], lambda data: data + b"\xc1", lambda data: data + data[:9]]
)
def test_damage_hides_neither_earlier_nor_later_sessions(
    harm: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "ends"
    file = EndsFile(tmp_path)
    add(file, range(2))
    file.close()
    path.write_bytes(harm(path.read_bytes()))
    again = EndsFile(tmp_path)
    found = again.take()
    assert found[0] == ended(0)
    add(again, range(2))
    again.write()
    add(again, range(2, 3))
    assert EndsFile(tmp_path).take() == [ended(number) for number in range(3)]
    again.close()


def test_a_full_disk_leaves_no_partial_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = EndsFile(tmp_path)
    add(file, range(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    add(file, range(1, 2))
    monkeypatch.undo()
    add(file, range(2, 3))
    assert EndsFile(tmp_path).take() == [ended(0), ended(2)]
    file.close()
