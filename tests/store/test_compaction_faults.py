"""Roll-ups and housekeeping with kills between any two steps, power cuts, errors, and full disks.

Seeded schedules: in the end every coarse row, description and last row equals the result of a plain loop over
the ticks in the journals. RONDO_SCHEDULES is the number of schedules, RONDO_TEST_SEED the seed of the first.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.errors import StoreError
from rondo_tools.store.compaction import clean_up
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS
from rondo_tools.store.format.state import State, parse_state
from rondo_tools.store.housekeeping import Housekeeper
from rondo_tools.store.remembered import Remembered
from tests.support.faulty_disk import FaultyDisk, KillError
from tests.support.store.store_journals import T0, TIERS, A, B, C, Host, Journal, Session, Tick

SEED = int(os.environ.get("RONDO_TEST_SEED", "0"))
SCHEDULES = int(os.environ.get("RONDO_SCHEDULES", "10"))


class Written:
    """A journal, with the offsets in it at which its ticks and ends end."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.ticks: list[tuple[int, Session, Tick]] = []
        self.ends: list[tuple[int, Session]] = []
        self.is_open = True


class Schedule:
    """A writer of journals and a roll-up over one faulty disk."""

    def __init__(self, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        self.host = Host(path, piece=choose((1, 2000, 1 << 24)))
        self.host.random = self.random
        self.host.layout.folder(JOURNALS).mkdir(parents=True)
        self.disk = FaultyDisk(path, seed)
        self.faults = set(self.random.sample(("kill", "power", "fail", "full"), self.random.randint(1, 4)))
        self.step_ms = choose((1000, 1000, 10_000))
        self.written: list[Written] = []
        self.come_backs = 0
        self.vms = [Session(f"vm-{n}", T0 + n) for n in range(self.random.randint(1, 5))]
        self.over: set[Session] = set()
        self.schema = dict.fromkeys(self.vms, A)
        self.counts = {"kills": 0, "power cuts": 0, "errors": 0, "journals that went": 0}
        self.keeper = self.house()

    def run(self, turns: int) -> None:
        for _ in range(turns):
            self.host.now_ms += 300_000
            self.write()
            if self.random.random() < 0.5:
                self.attempt(self.host.roll_up)
            if self.random.random() < 0.3:
                self.attempt(self.look)
            if self.random.random() < 0.1 and "power" in self.faults:
                self.crash(power=True)
            elif self.random.random() < 0.1:
                self.crash(power=False)
            if self.random.random() < 0.1:
                self.settle()

    def finish(self) -> None:
        for vm in self.vms:
            if vm not in self.over and self.host.ticks.get(vm):
                self.end(vm, "shutdown")
        self.settle()

    def settle(self) -> None:
        """Roll up everything, and check the result."""
        self.close()
        self.host.number = max(0, *self.host.layout.numbers(JOURNALS), self.host.state.rolled_up)
        if not self.host.number:
            return
        self.host.roll_up()
        self.host.check(doubles=2 * self.come_backs)
        layout, state = self.host.layout, self.host.state
        assert layout.carries() == [state.carry] or self.faults & {"fail", "full", "power", "kill"}
        clean_up(layout, state, TIERS)
        assert layout.carries() == [state.carry]
        for folder in ("tier_1", "tier_2", ENDED, LAST_ROWS):
            assert layout.numbers(folder) == sorted(state.files.get(folder, {}))

    # the writer

    def journal(self) -> Written:
        if not self.written or not self.written[-1].is_open:
            self.host.number = max([self.host.state.rolled_up, *self.host.layout.numbers(JOURNALS)])
            self.written.append(Written(self.host.journal()))
        return self.written[-1]

    def write(self) -> None:
        vms = [vm for vm in self.vms if self.random.random() < 0.8]
        for vm in vms:
            if vm in self.over:
                if self.random.random() > 0.3:
                    continue
                self.over.discard(vm)
                self.come_backs += 1
            if self.random.random() < 0.1:
                self.schema[vm] = self.random.choice((A, B, C))
            ticks = self.host.some(vm, self.random.randint(1, 90), self.schema[vm], self.step_ms)
            if self.random.random() < 0.05:  # it paused
                ticks[-1] = ticks[-1]._replace(t_ms=ticks[-1].t_ms + self.random.choice((5_000, 700_000)))
                self.host.ticks[vm][-1] = ticks[-1]
            written = self.journal()
            written.journal.ticks(vm, ticks)
            written.journal.writer.write()
            # A run of one schema is one frame: it is there as a whole or not at all.
            written.ticks += [(written.journal.writer.size, vm, tick) for tick in ticks]
            if self.random.random() < 0.1:
                self.end(vm, self.random.choice(("lost", "lost", "reboot")))
                if self.random.random() < 0.3 and vm in self.over:
                    again = Session(vm.instance, self.host.ticks[vm][-1].t_ms + 1)
                    self.vms.append(again)
                    self.schema[again] = self.random.choice((A, B, C))
        if self.random.random() < 0.3 and self.written and self.written[-1].is_open:
            self.written[-1].journal.writer.sync()
        if self.random.random() < 0.4:
            self.close()

    def end(self, vm: Session, reason: str) -> None:
        written = self.journal()
        written.journal.end(vm, reason)
        written.journal.writer.write()
        written.ends.append((written.journal.writer.size, vm))
        self.over.add(vm)

    def close(self) -> None:
        if self.written and self.written[-1].is_open:
            self.written[-1].is_open = False
            self.written[-1].journal.writer.close()

    # the roll-up

    def attempt(self, what: Callable[[], object]) -> None:
        closed = [one.journal.number for one in self.written if not one.is_open]
        if not closed:
            return
        self.host.number = max(closed)
        if self.random.random() < 0.5:
            if "kill" in self.faults or "power" in self.faults:
                self.disk.kill_in = self.random.randint(0, 30)
            if "fail" in self.faults and self.random.random() < 0.5:
                self.disk.kill_in, self.disk.fail_in = None, self.random.randint(0, 30)
            if "full" in self.faults and self.random.random() < 0.5:
                self.disk.kill_in, self.disk.is_full = None, True
        try:
            what()
        except OSError:
            self.counts["errors"] += 1
        except KillError:
            self.crash(power="power" in self.faults and self.random.random() < 0.7)
        self.disk.kill_in = self.disk.fail_in = None
        self.disk.is_full = False

    def look(self) -> None:
        look = self.keeper.look(self.host.state)
        self.host.state = look.state
        self.counts["journals that went"] += len(look.removed)

    def house(self) -> Housekeeper:
        host = self.host
        begun_ms = host.now_ms - 7_200_000  # so that it has looks that are an hour old
        keeper = Housekeeper(
            host.layout, TIERS, list, lambda: host.now_ms, clock=lambda: (host.now_ms - begun_ms) / 1000
        )
        for ago_ms in (7_200_000, 3_600_000):
            keeper._looks._own.append((host.now_ms - ago_ms, 7_200_000 - ago_ms))
        return keeper

    def crash(self, *, power: bool) -> None:
        """Open the store in another process, after a kill or a power cut."""
        self.disk.kill_in = self.disk.fail_in = None
        self.disk.is_full = False
        self.close()
        self.counts["power cuts" if power else "kills"] += 1
        if power:
            self.disk.cut_power()
        host = self.host
        path = host.layout.state_json
        host.state = parse_state(path.read_bytes()) if path.exists() else State()
        clean_up(host.layout, host.state, TIERS)
        host.remembered = Remembered(host.layout)
        host.remembered.load(host.state)
        self.keeper = self.house()
        if power:
            self.recount()

    def recount(self) -> None:
        """Drop the expected ticks that journals have lost before their roll-up."""
        host = self.host
        for written in self.written:
            if written.journal.number <= host.state.rolled_up:
                continue
            whole = self.whole(written)
            for vm in {vm for end, vm, _ in written.ticks if end not in whole}:
                lost = {tick.t_ms for end, one, tick in written.ticks if one == vm and end not in whole}
                host.ticks[vm] = [tick for tick in host.ticks[vm] if tick.t_ms not in lost]
                host.last_ms[vm.key] = host.ticks[vm][-1].t_ms if host.ticks[vm] else 0
            written.ticks = [one for one in written.ticks if one[0] in whole]
            for end, vm in written.ends:
                if end not in whole:
                    self.over.discard(vm)
            written.ends = [one for one in written.ends if one[0] in whole]

    def whole(self, written: Written) -> set[int]:
        """The ends of the writes that are completely in the file."""
        reached = FILE_SIZE
        try:
            with FrameFile(written.journal.path) as file:
                for at, head, _ in file.frames():
                    if at == reached:
                        reached += head.size
        except (FileNotFoundError, StoreError):
            return set()
        ends = [one[0] for one in written.ticks] + [one[0] for one in written.ends]
        return {end for end in ends if end <= reached}


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(SEED, SEED + SCHEDULES))
def test_schedules(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Replay one with RONDO_TEST_SEED=<seed> and -k 'schedules[<seed>]'."""
    caplog.set_level(logging.ERROR)
    schedule = Schedule(tmp_path / "store", seed)
    with schedule.disk.installed(monkeypatch):
        schedule.run(schedule.random.choice((10, 25, 60)))
        schedule.finish()
