"""Copies of a store that is written meanwhile, each piece of each file at another moment: no wrong data."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import End
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S
from tests.support.store.store_host import data, started
from tests.support.store.stream_model import COUNTS, LEVEL, T0, check, header, served, ticks
from tests.support.streams import encoded

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:20m,20s:1h")


def slow_copy(source: Path, target: Path, chance: random.Random) -> Iterator[None]:
    """Copy a folder as cp, tar and rsync do, in any order; pause after each piece."""
    target.mkdir()
    entries = sorted(source.iterdir())
    chance.shuffle(entries)
    for entry in entries:
        if entry.is_dir():
            yield from slow_copy(entry, target / entry.name, chance)
            continue
        try:
            read = entry.open("rb", buffering=0)
        except FileNotFoundError:
            continue  # it was replaced, or expired
        with read, (target / entry.name).open("wb", buffering=0) as written:
            while piece := read.read(chance.choice((7, 100, 1000, 100_000))):
                written.write(piece)
                yield


def opened(path: Path) -> OpenStore:
    return OpenStore(path, TIERS, now_ms=lambda: T0 + 1_200_000)


@pytest.mark.parametrize(
    "seed", [*range(15), *(pytest.param(n, marks=pytest.mark.heavy) for n in range(15, 60))]
)
def test_a_copy_made_while_writing_has_no_wrong_data(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    everything = ticks(chance.randint(100, 900), width=2)
    end = End("poweroff", everything[-1].t_ms)
    messages = [stream.encode(one) for one in everything]
    messages = [stream.encode(header(PAIR)), *messages, stream.encode(end)]
    pace = chance.choice((1, 5, 60))  # ticks between two pieces, at most
    with opened(tmp_path / "store") as store:
        intake = Intake(store.keeper)

        def feed(some: list[bytes]) -> None:
            intake.feed(b"".join(some))
            store.keeper.flush()
            if chance.random() < 0.1:
                store.keeper.end_journal()
                store.keep_house()

        at = chance.randint(1, len(messages) // 2)
        feed(messages[:at])
        for _ in slow_copy(tmp_path / "store", tmp_path / "copy", chance):
            count = chance.randint(0, pace)
            feed(messages[at : at + count])
            at += count
        intake.close()
    values = {one.t_ms: one.values for one in everything}
    for copied in Store(tmp_path / "copy").sessions():
        assert served(copied).items() <= values.items()
    # A rondo-store continues with the copy: with the producer's stream, from the begin of its backlog.
    with opened(tmp_path / "copy") as store:
        intake = Intake(store.keeper)
        intake.feed(b"".join(messages))
        intake.close()
        store.keeper.end_journal()
        store.keep_house()
    (again,) = Store(tmp_path / "copy").sessions()
    assert served(again).items() <= values.items()
    assert again.last_ms == everything[-1].t_ms
    assert again.end == end


def test_an_atomic_copy_equals_the_store(tmp_path: Path) -> None:
    everything = ticks(300, width=2)
    with opened(tmp_path / "store") as store:
        intake = Intake(store.keeper)
        intake.feed(encoded(header(PAIR), *everything[:100]))
        store.keeper.end_journal()
        store.keep_house()
        intake.feed(encoded(*everything[100:190]))
        store.keeper.flush()
        for _ in slow_copy(tmp_path / "store", tmp_path / "copy", random.Random(1)):
            pass
        intake.close()
    (copied,) = Store(tmp_path / "copy").sessions()
    check(copied, everything[:190], PAIR)
    with opened(tmp_path / "copy") as store:
        intake = Intake(store.keeper)
        intake.feed(encoded(header(PAIR), *everything, End("reset", T0 + 300_000)))
        intake.close()
        store.keeper.end_journal()
        store.keep_house()
    (session,) = Store(tmp_path / "copy").sessions()
    check(session, everything, PAIR)
    assert session.end == End("reset", T0 + 300_000)


def test_a_served_store_can_be_copied_with_cp(tmp_path: Path, run: Run, begin_ms: int) -> None:
    """cp, and a second rondo-store on the copy while the first continues."""
    if shutil.which("cp") is None:
        pytest.skip("there is no cp")
    path, copy = tmp_path / "store", tmp_path / "copy"
    with started(path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data(begin_ms, 700, end=False))
        process.stdin.flush()
        while process.stdout.readline():
            if any(one.last_ms == begin_ms + 699_000 for one in Store(path).sessions()):
                break
        subprocess.run(["cp", "-a", path, copy], check=True, timeout=PATIENCE_S)
        done = run("rondo-store", copy, stdin=None, input=data(begin_ms, 900))
        assert b"200 ticks stored, 1 session; 700 late" in done.stderr
    (session,) = Store(copy).sessions()
    check(session, ticks(900, begin_ms))
