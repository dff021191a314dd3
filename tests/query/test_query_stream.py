"""rondo-query stream: its output makes the same store again, through the real rondo-store."""

from __future__ import annotations

import math
import os
import pty
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rondo_tools.catalog import GAUGE, Series
from rondo_tools.query.damage import Damage
from rondo_tools.query.replay import messages
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import Decoder, End, Header, Tick
from tests.support.needs import PATIENCE_S
from tests.support.query.made_store import SERIES, T0, Row, add_session, flip_a_bit, keep_house, roll_up

ROOT = Path(__file__).resolve().parents[2]


def ticks(first: int, last: int) -> list[Row]:
    return [(T0 + 1000 * i, (10.0 * i, 0.1 * i, math.nan if i % 5 else -0.0)) for i in range(first, last + 1)]


def command(name: str, *argv: str | Path) -> list[str | Path]:
    return [sys.executable, ROOT / "bin" / name, *argv]


def streamed(store: Path) -> list[bytes]:
    opened = Store(store)
    return list(messages(opened.sessions(), Damage(opened)))


def store_stream(path: Path, data: bytes, now_ms: int = T0 + 100_000) -> None:
    """Like rondo-store with a pipe."""
    with OpenStore(path, now_ms=lambda: now_ms) as opened:
        intake = Intake(opened.keeper)
        intake.feed(data)
        intake.end_of_input()
        intake.close()


def served(store: Path) -> list[tuple[Header, End | None, int, list[tuple[Schema, bytes, bytes]]]]:
    return [
        (
            one.header,
            one.end,
            one.ticks,
            [(run.schema, run.t_ms.tobytes(), run.values.tobytes()) for run in one.runs()],
        )
        for one in Store(store).sessions()
    ]


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_store_of_its_stream_is_the_same(store: Path, tmp_path: Path, is_rolled_up: bool) -> None:
    other_series = (SERIES[2], Series("fds", (), GAUGE, "", ""))
    for number, (instance, end) in enumerate((("vm 1", "poweroff"), ("vm-2", "lost"), ("vm-3", "reset"))):
        add_life = partial(
            add_session, store, instance=instance, start_ms=T0 + number, labels=(("zone", "a"),)
        )
        rows = ticks(1, 55)
        add_life(rows[:10] + rows[50:] if number == 1 else rows)
        if number == 0:
            add_life([(T0 + 60_000 + 100 * i, (1.0, math.nan)) for i in range(30)], series=other_series)
        add_life(rows[:1], end=end)
    if is_rolled_up:
        roll_up(store)
    done = subprocess.run(command("rondo-query", store, "stream"), capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, b"")
    other = tmp_path / "other"
    store_stream(other, done.stdout)
    assert served(other) == served(store)
    assert len(served(store)) == 3
    assert sum(size for *_, size, _ in served(store)) == 55 + 30 + 15 + 55
    again = subprocess.run(command("rondo-query", other, "stream"), capture_output=True, timeout=PATIENCE_S)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    # A store that has everything is not changed.
    store_stream(other, done.stdout)
    assert served(other) == served(store)


def test_ticks_that_are_gone_are_logged(store: Path, tmp_path: Path) -> None:
    add_session(store, ticks(1, 1000), instance="long", end="poweroff")
    add_session(store, ticks(1, 10), instance="short", end="poweroff")
    roll_up(store)
    keep_house(store, T0 + 2_000_000)
    done = subprocess.run(command("rondo-query", store, "stream"), capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0
    assert b"left out: 400 ticks of 1 session, older than the last ten minutes" in done.stderr
    store_stream(tmp_path / "other", done.stdout, T0 + 1_000_000)
    assert [one.ticks for one in Store(tmp_path / "other").sessions()] == [600, 10]


@pytest.mark.heavy
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.lists(st.integers(0, 39), min_size=1, unique=True).map(sorted),
    value=st.floats() | st.just(math.nan),
    end=st.booleans(),
)
def test_the_stream_equals_the_stored_one(
    tmp_path_factory: pytest.TempPathFactory, slots: list[int], value: float, end: bool
) -> None:
    store = tmp_path_factory.mktemp("stream") / "store"
    rows = [(T0 + 1000 * slot, (value, 0.0, 1.0)) for slot in slots]
    add_session(store, rows, end="signal" if end else None)
    decoder = Decoder()
    header, *rest = (event for piece in streamed(store) for event in decoder.feed(piece))
    decoder.close()
    assert header == Header("vm-1", T0, (), 1000, SERIES)
    (session,) = Store(store).sessions()
    assert rest[len(rows) :] == ([session.end] if session.end else [])
    # To the bit: reading rows would show one NaN for all.
    assert rest[: len(rows)] == [Tick(t_ms, struct.pack("<3d", *values)) for t_ms, values in rows]


def test_a_selector_chooses_whole_sessions(store: Path) -> None:
    for instance in ("vm-1", "vm-2"):
        add_session(store, ticks(1, 3), instance=instance)
    out = subprocess.run(
        command("rondo-query", store, "stream", 'rss_bytes{instance="vm-2"}'),
        capture_output=True,
        timeout=PATIENCE_S,
    ).stdout
    header, *rest = Decoder().feed(out)
    assert isinstance(header, Header)
    assert (header.instance, header.series, len(rest)) == ("vm-2", SERIES, 3)
    nothing = subprocess.run(
        command("rondo-query", store, "stream", '{instance="x"}'), capture_output=True, timeout=PATIENCE_S
    )
    assert (nothing.returncode, nothing.stdout) == (1, b"")


def test_a_terminal_is_refused(store: Path) -> None:
    add_session(store, ticks(1, 3))
    master, slave = pty.openpty()
    try:
        refused = subprocess.run(
            command("rondo-query", store, "stream"), stdout=slave, stderr=subprocess.PIPE, timeout=PATIENCE_S
        )
    finally:
        os.close(slave)
        os.close(master)
    assert refused.returncode == 64
    assert b"terminal" in refused.stderr


def test_damage_does_not_hide_the_others(store: Path) -> None:
    add_session(store, ticks(1, 2), instance="bad")
    add_session(store, ticks(1, 3), instance="bad")
    add_session(store, ticks(1, 3), instance="good")
    journal = flip_a_bit(store, T0 + 3000, "bad")
    got = subprocess.run(command("rondo-query", store, "stream"), capture_output=True, timeout=PATIENCE_S)
    assert got.returncode == 65
    assert str(journal).encode() in got.stderr
    events = list(Decoder().feed(got.stdout))
    assert [event.instance for event in events if isinstance(event, Header)] == ["bad", "good"]
    assert sum(isinstance(event, Tick) for event in events) == 2 + 3
