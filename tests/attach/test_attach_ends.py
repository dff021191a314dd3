"""Sessions that are over and not delivered outlive a watcher that is killed."""

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
    """Killed when it had put down the end, and not yet that the session does not go on."""
    (manager.runtime / "lives").write_text(lives)


@pytest.mark.parametrize("harm", [_as_it_was, _between_two_writes])
def test_a_kill_loses_no_end(harm: Callable[[ServiceManager, str], None], manager: ServiceManager) -> None:
    """The store is away while a VM ends, until the watcher is another; then its end is as it was."""
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
        reason = re.search(r"over ends: (\w+)", watcher.said)
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


def test_the_file_has_those_that_wait_and_is_emptied_when_none_does(tmp_path: Path) -> None:
    file = EndsFile(tmp_path)
    assert file.take() == []
    add(file, range(3))
    file.drop(1)  # still there: to send it again does no harm
    assert EndsFile(tmp_path).take() == [ended(number) for number in range(3)]
    file.drop(0)
    file.drop(0)
    file.drop(2)
    assert (tmp_path / "ends").read_bytes() == b""
    add(file, range(5, 6))
    assert EndsFile(tmp_path).take() == [ended(5)]
    file.close()


def test_the_file_is_bounded_by_those_that_wait(tmp_path: Path) -> None:
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
def test_what_is_damaged_hides_nothing_before_it_and_nothing_that_comes(
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


def test_a_full_disk_leaves_no_half_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = EndsFile(tmp_path)
    add(file, range(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    add(file, range(1, 2))
    monkeypatch.undo()
    add(file, range(2, 3))
    assert EndsFile(tmp_path).take() == [ended(0), ended(2)]
    file.close()
