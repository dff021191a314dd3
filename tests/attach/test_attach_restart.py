"""A killed and restarted rondo-attach loses no exit and no session."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from rondo_tools.attach.kept import KeptFile, KeptProcess, KeptVm
from rondo_tools.store.reader import Store
from tests.support.attach.attach_host import ROOT, Receiver, ServiceManager, own, small_guest
from tests.support.needs import PATIENCE_S


def test_a_restart_loses_no_exit_and_no_session(receiver: Receiver, manager: ServiceManager) -> None:
    """Killed under load; one VM begins and one ends while it is away, and others continue."""
    flags = ("--output", receiver.address)
    busy = "run 50000"
    with ExitStack() as opened:
        names = ("stays-1", "stays-2", "ends")
        guests = {name: opened.enter_context(small_guest(name=name)) for name in names}
        with manager.started(*flags):
            assert len(manager.kept) == 4
            for name, guest in guests.items():
                guest.do("make", "run 1000")
                receiver.wait(name, ticks=1)
                guest.begin(busy)
        guests["ends"].finish(busy)
        guests["ends"].quit()
        born = opened.enter_context(small_guest(name="born"))
        born.do("make", "run 777")
        with manager.started(*flags) as watcher:
            (ended,) = receiver.wait("ends", ended=1)
            for name in ("stays-1", "stays-2"):
                guests[name].finish(busy)
                guests[name].quit()
                receiver.wait(name, ended=1)
            receiver.wait("born", ticks=1)
            born.quit()
            (young,) = receiver.wait("born", ended=1)
            assert watcher.stop() == 0
    assert ended.end is not None
    assert ended.end.reason == "gone"
    for name in names:
        (session,) = receiver.of(name)
        assert session.exits() == {"io": 51_000, "mmio": 0, "hlt": 2, "shutdown": 0, "other": 0}
        assert session.labels == {"vmm": "qemu"}
        times = [tick.t_ms for tick in session.ticks]
        assert times == sorted(set(times))
    assert young.exits()["io"] == 777
    assert young.labels == {"vmm": "qemu"}  # not late
    assert len(manager.kept) == 4
    kept = (manager.runtime / "lives").read_text()  # it may have other VMs of the host
    assert not any(f'"{own(name)}"' in kept for name in (*names, "born"))


def test_a_store_has_one_session_of_each(tmp_path: Path, manager: ServiceManager) -> None:
    """A VM that ended between two watchers, and one that continued."""
    address = manager.runtime.parent / "store.sock"
    command: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-store", tmp_path / "store"]
    command += ["--listen", f"unix:{address}", "--no-health"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as store:
        try:
            until(address.exists)
            address.chmod(0o666)
            flags = ("--output", f"unix:{address}", "--match", f"name={own('*')}", "--no-health")
            with small_guest(name="ends") as ends, small_guest(name="stays") as stays:
                with manager.started(*flags):
                    for guest in (ends, stays):
                        guest.do("make", "run 100")
                    until(
                        lambda: _stored(tmp_path / "store") == {own("ends"): [100.0], own("stays"): [100.0]}
                    )
                ends.quit()
                # Other flags: the labels of a session must not change, or the store refuses it.
                with manager.started(*flags, "--label", "rack=a2") as watcher:
                    stays.do("run 10")
                    stays.quit()
                    until(lambda: _ends(tmp_path / "store") == {own("ends"): "gone", own("stays"): "gone"})
                    assert watcher.stop() == 0
        finally:
            store.terminate()
    assert _stored(tmp_path / "store") == {own("ends"): [100.0], own("stays"): [110.0]}


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _ends(path: Path) -> dict[str, str | None]:
    return {one.instance: one.end and one.end.reason for one in Store(path).sessions()}


def _stored(path: Path) -> dict[str, list[float]]:
    """The last count of port exits in each session, by instance."""
    found: dict[str, list[float]] = {}
    for session in Store(path).sessions() if (path / "store.json").exists() else ():
        names = [str(series) for series in session.header.series]
        if names:  # it has a tick
            at = names.index('vcpu_exits_total{reason="io"}')
            found.setdefault(session.instance, []).append(float(session.rows().values[-1, at]))
    return found


def test_a_late_vm_keeps_its_base_over_a_restart(receiver: Receiver, manager: ServiceManager) -> None:
    """Exits before the first watcher never count, before a restart and after it."""
    flags = ("--output", receiver.address)
    with small_guest(name="late") as guest:
        guest.do("make", "run 1000")
        with manager.started(*flags):
            guest.do("run 1")  # by which it is found
            receiver.wait("late", ticks=1)
        guest.do("run 3")
        with manager.started(*flags):
            guest.do("run 4")
            guest.quit()
            (session,) = receiver.wait("late", ended=1)
    assert session.labels["attached"] == "late"
    assert session.exits()["io"] == 7
    assert session.last()["vmm_cpu_seconds_total"] >= 0


def _of_another_map(manager: ServiceManager) -> None:
    file = manager.runtime / "lives"
    head, *lines = file.read_text().splitlines()
    other = json.dumps({**json.loads(head), "map": json.loads(head)["map"] + 1})
    file.write_text("\n".join((other, *lines)))


def _damaged(manager: ServiceManager) -> None:
    file = manager.runtime / "lives"
    file.write_text(file.read_text()[:-20])


def _without_links(manager: ServiceManager) -> None:
    for name in [name for name in manager.kept if name.startswith("exits")]:
        manager.kept.pop(name)


@pytest.mark.parametrize("harm", [ServiceManager.drop, _of_another_map, _damaged, _without_links])
def test_kept_state_that_does_not_fit_is_ignored(
    harm: Callable[[ServiceManager], None], receiver: Receiver, manager: ServiceManager
) -> None:
    """A running VM is late then: it counts from 0, in a new session."""
    flags = ("--output", receiver.address)
    with small_guest(name="on") as guest:
        with manager.started(*flags):
            guest.do("make", "run 30")
            receiver.wait("on", ticks=1)
        harm(manager)
        with manager.started(*flags) as watcher:
            guest.do("run 1")  # by which it is found, if the map is new
            watcher.wait_for(own("on begins"))
            guest.do("run 5")
            guest.quit()
            _, second = receiver.wait("on", ended=1)
        assert len(manager.kept) == 4
    assert second.labels["attached"] == "late"
    assert second.exits()["io"] in (5, 6)  # 6 if it was found before


def test_the_kept_file_is_read_back_unchanged(tmp_path: Path) -> None:
    labels = {"vmm": "qemu", "nova_name": "a\u202e"}
    vm = KeptVm(
        "a\n\u202e", "qemu", 5, False, (1, 2, 3, 4, 5), (6.0, 7.0), 0.5, (8, 9), labels, {8: (1.0, 2.0)}
    )
    process = KeptProcess(7, 8, True, 2, {9: (1, 2, 3, 4, 5)}, {"/kvm/7-9": vm, "": None})
    first = KeptFile(tmp_path, 3, 1.5, is_map_kept=False)
    first.put(process)
    first.put(process._replace(pid=10))
    first.drop(10)
    first.write()
    second = KeptFile(tmp_path, 3, 99.0, is_map_kept=True)
    assert second.processes == (process,)
    assert second.since_boot_s == 1.5
    assert KeptFile(tmp_path, 4, 99.0, is_map_kept=True).processes == ()
