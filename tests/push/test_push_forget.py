"""Sessions are forgotten during a delivery: everything else arrives, and nothing twice."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from rondo_tools.catalog import Series
from rondo_tools.errors import EX_TEMPFAIL, RondoError
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.samples import Block, SeriesSet
from rondo_tools.push.batches import Batches
from rondo_tools.push.cursor import Cursor, InFlight
from rondo_tools.push.encoding import PROTOCOLS
from rondo_tools.push.encoding.body import encode
from rondo_tools.push.piece import Piece
from rondo_tools.push.stretch import Stretch
from rondo_tools.store.forget.client import EX_NOTHING, forget_sessions
from rondo_tools.store.forget.job import Forgetting
from rondo_tools.store.forget.request import parse_forget
from rondo_tools.store.format.state import State
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import End, Header
from tests.support.push.journal_maker import Maker, series

T0 = 1_732_300_000_000
A, B, OWN = series("c1", "g1"), series("g1", "c2", "c3"), series("g_secret")
SECRET = 'instance=~"s|secret-.*"'
INSTANCES = ("vm-1", "s", "secret-1", "vm-2", "secret-2", "v")
Sample = tuple[str, str, int, float]


def begun(maker: Maker, seed: int) -> None:
    """Three journals of sessions that begin, end, change their series, and are declared again."""
    chance = random.Random(seed)
    newest: dict[tuple[str, int], int] = {}
    for file in range(3):
        for n in range(40):
            name = chance.choice(INSTANCES)
            key, at_ms = (name, T0 + chance.randrange(2)), T0 + 100_000 * file + 1000 * n
            schema = chance.choice((A, B, OWN) if name[0] == "s" else (A, B))
            at_ms = max(at_ms, newest.get(key, 0))
            times = sorted({at_ms + chance.randrange(1, 1_000_000) for _ in range(chance.randrange(1, 5))})
            newest[key] = times[-1]
            maker.rows(key, schema, times, [[n] * schema.width] * len(times))
            if chance.random() < 0.2:
                maker.end(key)
        maker.position()
        if file < 2:
            maker.rotate()


def sent(stretch: Stretch, done: int) -> list[list[list[Sample]]]:
    """The samples of each slice's batches, from row `done` on, without the secret instances."""
    made = Batches(stretch, 0, lambda header: sent_labels(header, "job", {}), None, 30)
    return [
        [
            sample
            for batch in made.of(stretch.slice(number), done)
            if (
                sample := [
                    (name, dict(labels)["__name__"], t_ms, values[at])
                    for block in batch.blocks
                    for t_ms, values in zip(block.t_ms.tolist(), block.values.tolist(), strict=True)
                    for at, labels in enumerate(block.series_set.labels)
                    if (name := dict(labels)["instance"])[0] != "s"
                ]
            )
        ]
        for number in range(stretch.slices)
    ]


def flat(slices: list[list[list[Sample]]]) -> list[list[str]]:
    return [[repr(sample) for batch in batches for sample in batch] for batches in slices]


@pytest.mark.parametrize("seed", range(8))
def test_a_position_in_a_stretch_stays_valid_after_a_forget(tmp_path: Path, seed: int) -> None:
    maker = Maker(tmp_path)
    begun(maker, seed)
    where = maker.start(), maker.position()
    maker.close()
    places = (0, 1, 17, 60)
    with Stretch(maker.layout, *where) as stretch:
        cuts, sizes = stretch.cuts, [stretch.slice(n).t_ms.size for n in range(stretch.slices)]
        before = [flat(sent(stretch, done)) for done in places]
        line = {name: t_ms for name, t_ms in stretch.line().items() if name[0] != "s"}
    job = Forgetting(maker.layout, State(), 1, parse_forget(f"{{{SECRET}}}"), b"key", 3)
    job.run()
    assert {instance for instance, _ in job.removed.sessions} == {"s", "secret-1", "secret-2"}
    with Stretch(maker.layout, *where) as stretch:
        assert stretch.cuts == cuts
        assert [stretch.slice(n).t_ms.size for n in range(stretch.slices)] == sizes
        assert [flat(sent(stretch, done)) for done in places] == before
        assert stretch.line() == line
        assert set(stretch.line_before()) == set(line)
        batches = Batches(stretch, 0, lambda header: sent_labels(header, "job", {}), None, 30)
        sent_names = {
            dict(labels)["instance"]
            for number in range(stretch.slices)
            for batch in batches.of(stretch.slice(number), 0)
            for block in batch.blocks
            for labels in block.series_set.labels
        }
        assert sent_names == set(line), "no forgotten instances"
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.rglob("0*"))


def in_flight(protocol: str, instance: str) -> InFlight:
    one = SeriesSet((Series("a", (), "gauge", "", ""),), ((("__name__", "a"), ("instance", instance)),))
    body = encode(protocol, [Block(one, np.array([T0]), np.array([[1.0]]))], ())
    return InFlight(1, (Piece(body),))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_in_flight_is_named(tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "store"
    now_ms = time.time_ns() // 1_000_000
    with OpenStore(path) as store:
        for name in ("vm-1", "vm-10"):
            schema_series = (Series("a", (), "gauge", "", ""),)
            session = store.keeper.begin(Header(name, now_ms, (), 1000, schema_series))
            store.keeper.append(session, now_ms, struct.pack("<d", 1.0))
            store.keeper.end(session, End("poweroff", now_ms))
        store.keeper.flush()
    with Cursor(path, "mine") as cursor:
        cursor.in_flight = in_flight(protocol, "vm-10")
        cursor.save()
    forget_sessions(str(path), parse_forget('{instance="vm-1"}'))  # the batch has no sample of it

    with pytest.raises(RondoError, match=r"cursor_mine\.json: a batch in flight still has some") as error:
        forget_sessions(str(path), parse_forget('{instance="vm-10"}'))
    assert error.value.exit_code == EX_TEMPFAIL
    with pytest.raises(RondoError, match="in flight"):  # it still is
        forget_sessions(str(path), parse_forget('{instance="vm-10"}'))
    with Cursor(path, "mine") as cursor:
        assert cursor.in_flight == in_flight(protocol, "vm-10")
        cursor.in_flight = None
        cursor.save()
    with pytest.raises(RondoError, match="nothing matches") as error:
        forget_sessions(str(path), parse_forget('{instance="vm-10"}'))
    assert error.value.exit_code == EX_NOTHING


def test_forget_waits_for_a_running_push(tmp_path: Path) -> None:
    path = tmp_path / "store"
    now_ms = time.time_ns() // 1_000_000
    with OpenStore(path) as store:
        session = store.keeper.begin(Header("vm-1", now_ms, (), 1000, (Series("a", (), "gauge", "", ""),)))
        store.keeper.append(session, now_ms, struct.pack("<d", 1.0))
        store.keeper.flush()
    with Cursor(path, "mine") as cursor:
        cursor.in_flight = in_flight("1.0", "vm-1")
        cursor.save()
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                cursor.in_flight = None
                cursor.save()

        forget_sessions(str(path), parse_forget('{instance="vm-1"}'), sleep=sleep)
        assert len(waited) == 3
