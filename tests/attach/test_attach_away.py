"""Changes of the clock between two watchers."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from rondo_tools import clock
from rondo_tools.attach.kept import KeptFile
from tests.support.attach.attach_host import ROOT, Receiver, ServiceManager, small_guest

HOUR_MS = 3_600_000


class Clock:
    """The wall clock of watchers with its environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.set(0)

    def set(self, ahead_ms: int) -> None:
        new = self._folder / "new-clock"
        new.write_text(str(ahead_ms))
        new.replace(self._folder / "clock")

    @property
    def environment(self) -> dict[str, str]:
        folder = str(ROOT / "tests" / "set_clock")
        return {**os.environ, "PYTHONPATH": folder, "SET_CLOCK": str(self._folder / "clock")}


def test_a_clock_set_back_during_the_restart_ends_the_sessions(
    receiver: Receiver, manager: ServiceManager
) -> None:
    """One VM continues in a new session, with ticks by the new clock; another one ended meanwhile."""
    wall = Clock(manager.runtime.parent)
    flags = ("--output", receiver.address, "--match", "name=*back-*")
    with ExitStack() as opened:
        stays, ends = (opened.enter_context(small_guest(name=f"back-{name}")) for name in ("stays", "ends"))
        with manager.started(*flags, environment=wall.environment):
            for guest in (stays, ends):
                guest.do("make", "run 10")
            wall.set(HOUR_MS)  # forward; the file must follow
            times = [
                receiver.wait_for(
                    f"back-{name}", lambda got: got.ticks[-1].t_ms > clock.now_ms() + HOUR_MS / 2
                )
                .ticks[-1]
                .t_ms
                for name in ("stays", "ends")
            ]
        ends.do("run 2")
        stays.do("run 3")
        ends.quit()
        wall.set(0)
        with manager.started(*flags, environment=wall.environment) as watcher:
            watcher.wait_for("the clock was set back by 36")
            (ended,) = receiver.wait("back-ends", ended=1)
            stays.do("run 4")
            stays.quit()
            receiver.wait("back-stays", ended=2)
    sessions = receiver.of("back-stays")
    first, second = sorted(sessions, key=lambda got: got.end is not None and got.end.reason != "clock")
    assert first.end is not None
    assert (first.end.reason, first.end.t_ms) == ("clock", first.ticks[-1].t_ms)
    assert (first.exits()["io"], second.exits()["io"], ended.exits()["io"]) == (13, 4, 12)
    assert first.ticks[-1].t_ms > times[0]
    assert ended.ticks[-1].t_ms > times[1]
    assert second.header.start_ms < clock.now_ms()
    assert all(second.header.start_ms < tick.t_ms <= clock.now_ms() for tick in second.ticks)


@pytest.mark.parametrize(("step_ms", "sessions"), [(-3_000, 1), (HOUR_MS, 1)])
def test_a_small_step_back_or_a_step_forward_ends_no_session(
    step_ms: int, sessions: int, receiver: Receiver, manager: ServiceManager
) -> None:
    wall = Clock(manager.runtime.parent)
    flags = ("--output", receiver.address, "--match", "name=*step")
    with small_guest(name="step") as guest:
        with manager.started(*flags, environment=wall.environment):
            guest.do("make", "run 10")
            receiver.wait("step", ticks=1)
        wall.set(step_ms)
        with manager.started(*flags, environment=wall.environment):
            guest.do("run 5")
            guest.quit()
            receiver.wait("step", ended=1)
    found = receiver.of("step")
    assert len(found) == sessions
    assert found[-1].exits()["io"] == 15


def test_the_file_follows_a_step_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written even if nothing else has changed."""
    booted_ms = 1_000_000
    monkeypatch.setattr(clock, "booted_ms", lambda: booted_ms)
    file = KeptFile(tmp_path, 3, 1.5, is_map_kept=False)
    file.write()
    written = (tmp_path / "lives").stat().st_mtime_ns
    booted_ms += 999
    file.write()
    assert (tmp_path / "lives").stat().st_mtime_ns == written
    booted_ms += 7_001
    file.write()
    booted_ms -= 6_000
    assert KeptFile(tmp_path, 3, 1.5, is_map_kept=True).back_ms == 6_000
    booted_ms += 9_000
    assert KeptFile(tmp_path, 3, 1.5, is_map_kept=True).back_ms == 0
