"""A store copied while it is written, each piece of each file at another moment: nothing wrong in it."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needs import PATIENCE_S
from ring_model import COUNTS, LEVEL, T0, header, slabs, ticks
from store_host import data, started
from truth import Truth

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.ingest import Ingest
from rondo_tools.store.reader import Store
from rondo_tools.store.tiers import DEFAULT_TIERS, parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:2m,20s:10m")
# All that rondo-query check says of a copy: rows caught half written, and tiers of two moments.
MAY_BE_FOUND = re.compile(
    r"slot \d+: its CRC is wrong|the row at \d+ is after the last tick|no row for the window"
    r"|the row at \d+ is not the roll-up of tier 0"
)


def slow_copy(source: Path, target: Path, chance: random.Random) -> Iterator[None]:
    """Copy a folder as cp, tar and rsync do, in any order; pause after each piece."""
    target.mkdir()
    entries = sorted(source.iterdir())
    chance.shuffle(entries)
    for entry in entries:
        if entry.is_dir():
            yield from slow_copy(entry, target / entry.name, chance)
            continue
        with entry.open("rb", buffering=0) as read, (target / entry.name).open("wb", buffering=0) as written:
            while piece := read.read(chance.choice((7, 100, 1000, 100_000))):
                written.write(piece)
                yield


@pytest.mark.parametrize(
    "seed", [*range(15), *(pytest.param(n, marks=pytest.mark.heavy) for n in range(15, 60))]
)
def test_a_copy_of_many_moments_holds_nothing_wrong(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    everything = ticks(chance.randint(100, 900), width=2)
    end = End("poweroff", everything[-1].t_ms)
    messages = [stream.encode(one) for one in (header(PAIR), *everything, end)]
    pace = chance.choice((1, 5, 60))  # ticks between two pieces, at most
    with StoreWriter(tmp_path / "store", TIERS) as store:
        ingest = Ingest(store)
        at = chance.randint(1, len(messages) // 2)
        ingest.feed(b"".join(messages[:at]))
        for _ in slow_copy(tmp_path / "store", tmp_path / "copy", chance):
            count = chance.randint(0, pace)
            ingest.feed(b"".join(messages[at : at + count]))
            at += count
        ingest.close()
    truth = Truth(PAIR, TIERS, everything)
    (copied,) = Store(tmp_path / "copy").sessions()
    left = truth.check(copied)
    for finding in copied.findings():
        assert MAY_BE_FOUND.match(finding.what)
    # A rondo-store goes on with it: with the producer's stream, from as far back as it remembers.
    with StoreWriter(tmp_path / "copy", TIERS) as store:
        ingest = Ingest(store)
        ingest.feed(b"".join(messages))
        ingest.close()
    (again,) = Store(tmp_path / "copy").sessions()
    sent_again = {one.t_ms for one in everything if one.t_ms > max(left, default=0)}
    truth.check(again, left | sent_again)
    if copied.end is None:  # else it was over, and nothing more is taken
        assert again.rows().t_ms[-1] == everything[-1].t_ms
        assert again.end == end


def test_a_copy_of_one_moment_is_the_store(tmp_path: Path) -> None:
    everything = ticks(300, width=2)
    with StoreWriter(tmp_path / "store", TIERS) as store:
        ingest = Ingest(store)
        ingest.feed(b"".join(map(stream.encode, (header(PAIR), *everything[:190]))))
        for _ in slow_copy(tmp_path / "store", tmp_path / "copy", random.Random(1)):
            pass
        ingest.close()
    (copied,) = Store(tmp_path / "copy").sessions()
    assert copied.findings() == []
    with StoreWriter(tmp_path / "copy", TIERS) as store:
        ingest = Ingest(store)
        ingest.feed(b"".join(map(stream.encode, (header(PAIR), *everything, End("reset", T0 + 300_000)))))
        ingest.close()
    found = [(copied.path / f"tier_{number}.slab").read_bytes() for number in range(3)]
    assert found == slabs(PAIR, TIERS, everything, finished=True)


def test_a_copy_with_cp_of_a_store_that_is_served(tmp_path: Path, run: Run, begin_ms: int) -> None:
    """cp, rondo-query check, and a second rondo-store on the copy while the first goes on."""
    if shutil.which("cp") is None:
        pytest.skip("there is no cp")
    path, copy = tmp_path / "store", tmp_path / "copy"
    with started(path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data(begin_ms, 700, end=False))
        process.stdin.flush()
        while not process.stdout.readline().endswith(f"\t{begin_ms + 698_000}\n".encode()):
            pass
        subprocess.run(["cp", "-a", "--sparse=always", path, copy], check=True, timeout=PATIENCE_S)
        checked = run("rondo-query", copy, "check")
        assert (checked.returncode, checked.stdout) == (0, b"")
        done = run("rondo-store", copy, stdin=None, input=data(begin_ms, 900))
        assert b"200 ticks stored, 1 session; 700 late" in done.stderr
    (session,) = Store(copy).sessions()
    found = [(session.path / f"tier_{number}.slab").read_bytes() for number in range(3)]
    assert found == slabs(SERIES, DEFAULT_TIERS, ticks(900, begin_ms), finished=True)
