"""rondo-query stream: what it prints makes the same store again, through the real rondo-store."""

from __future__ import annotations

import math
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_store import SERIES, T0, TIERS, Row, add_session
from needs import PATIENCE_S

from rondo_tools.query.damage import Damage
from rondo_tools.query.replay import messages
from rondo_tools.store.reader import Store
from rondo_tools.store.tiers import format_tiers
from rondo_tools.stream import Decoder, Header

ROOT = Path(__file__).resolve().parents[2]


def ticks(first: int, last: int) -> list[Row]:
    return [(T0 + 1000 * i, (10.0 * i, 0.1 * i, math.nan if i % 5 else -0.0)) for i in range(first, last + 1)]


def command(name: str, *argv: str | Path) -> list[str | Path]:
    return [sys.executable, ROOT / "bin" / name, *argv]


def tier_0(store: Path) -> dict[str, bytes]:
    return {
        str(path.parent.relative_to(store)): path.read_bytes()
        for path in store.glob("instances/*/*/tier_0.slab")
    }


def streamed(store: Path) -> list[bytes]:
    opened = Store(store)
    return list(messages(opened.sessions(), Damage(opened)))


def test_a_store_of_its_stream_is_the_same(store: Path, tmp_path: Path) -> None:
    # A store removes what is older than its last tier, and refuses what is ahead of its clock.
    begin = time.time_ns() // 1_000_000 // 100_000 * 100_000 - 400_000
    for number, (instance, end) in enumerate((("vm 1", "poweroff"), ("vm-2", None), ("vm-2", "reset"))):
        rows = [(t_ms - T0 + begin + 100_000 * number, values) for t_ms, values in ticks(1, 55)]
        gap = rows[:10] + rows[50:]  # leaves rows of an earlier lap
        add_session(
            store,
            gap if number == 1 else rows,
            instance=instance,
            start_ms=begin + 100_000 * number,
            end=end,
            labels=(("zone", "a"),),
        )
    other = tmp_path / "other"
    with subprocess.Popen(command("rondo-query", store, "stream"), stdout=subprocess.PIPE) as query:
        try:
            stored = subprocess.run(
                command("rondo-store", other, "--tiers", format_tiers(TIERS)),
                stdin=query.stdout,
                capture_output=True,
                timeout=PATIENCE_S,
            )
        finally:
            query.kill()
    assert stored.returncode == 0, stored.stderr
    assert tier_0(other) == tier_0(store)
    assert len(tier_0(store)) == 3
    assert [(one.header, one.end) for one in Store(other).sessions()] == [
        (one.header, one.end) for one in Store(store).sessions()
    ]
    again = subprocess.run(command("rondo-query", other, "stream"), capture_output=True, timeout=60)
    assert (again.returncode, again.stdout) == (0, b"".join(streamed(store)))


@pytest.mark.heavy
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.lists(st.integers(0, 39), unique=True).map(sorted),
    value=st.floats() | st.just(math.nan),
    end=st.booleans(),
)
def test_the_stream_is_what_was_stored(
    tmp_path_factory: pytest.TempPathFactory, slots: list[int], value: float, end: bool
) -> None:
    store = tmp_path_factory.mktemp("stream") / "store"
    rows = [(T0 + 1000 * slot, (value, 0.0, 1.0)) for slot in slots]
    add_session(store, rows, end="signal" if end and rows else None)
    decoder = Decoder()
    header, *rest = (event for piece in streamed(store) for event in decoder.feed(piece))
    decoder.close()
    assert header == Header("vm-1", T0, (), 1000, SERIES)
    (session,) = Store(store).sessions()
    assert rest[len(rows) :] == ([session.end] if session.end else [])
    stored = session.rows()
    assert [(tick.t_ms, tick.values) for tick in rest[: len(rows)]] == [  # type: ignore[union-attr]
        (t_ms, values.tobytes()) for t_ms, values in zip(stored.t_ms.tolist(), stored.values, strict=True)
    ]


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


def test_a_damaged_session_does_not_hide_the_others(store: Path) -> None:
    add_session(store, ticks(1, 3), instance="bad")
    add_session(store, ticks(1, 3), instance="good")
    (slab,) = store.glob("instances/bad/*/tier_0.slab")
    slab.write_bytes(b"nonsense" * 100)
    got = subprocess.run(command("rondo-query", store, "stream"), capture_output=True, timeout=PATIENCE_S)
    assert got.returncode == 65
    assert str(slab).encode() in got.stderr
    assert [event.instance for event in Decoder().feed(got.stdout) if isinstance(event, Header)] == ["good"]
