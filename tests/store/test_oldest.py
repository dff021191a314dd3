"""The oldest tick after a position, compared with a plain search of every row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rondo_tools.catalog import SERIES
from rondo_tools.selector import parse_selector
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import ROWS, rows_of
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import Header

T0 = 1_795_395_000_000


def write(path: Path, rng: np.random.Generator) -> None:
    """Two journals of frames with ticks of some VMs, not in time order."""
    now = [T0]
    for _ in range(2):
        with OpenStore(path, now_ms=lambda: now[0], latest_ms=lambda: now[0]) as store:
            keeper = store.keeper
            for name in ("a", "b", "c"):
                header = Header(name, T0, (("tenant", name),), 1000, SERIES)
                session = keeper.begin(header, owner=store)
                last_ms = now[0]
                for _ in range(int(rng.integers(1, 9))):
                    last_ms += int(rng.integers(1, 5000))
                    keeper.append(session, last_ms, np.zeros(len(SERIES)).tobytes())
                    if rng.random() < 0.6:
                        keeper.flush()
            keeper.flush()
        now[0] += 60_000


def every_row(path: Path) -> Iterator[tuple[Position, int, str]]:
    """The position of its frame, its time, its instance."""
    layout = Layout(path)
    for number in layout.numbers(JOURNALS):
        file = FrameFile(layout.file(JOURNALS, number))
        names = {one.number: one.instance for one in Store(path)._look().journals[number].records.values()}
        for at, head, payload in file.frames():
            if head.kind == ROWS:
                for row in rows_of(payload, file.schemas[head.schema].width):
                    yield (
                        Position(number, file.header.file_id, at),
                        int(row["t_ms"]),
                        names[int(row["session"])],
                    )
        file.close()


@pytest.mark.parametrize("seed", range(10))
def test_the_oldest_tick_after_a_position(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    write(tmp_path, rng)
    rows = list(every_row(tmp_path))
    places = [row[0] for row in rows]
    for _ in range(40):
        begin, end = sorted(places[int(rng.integers(len(places)))] for _ in range(2))
        done_ms = rows[int(rng.integers(len(rows)))][1]
        text = str(rng.choice(["{}", '{tenant="b"}', '{tenant!="a"}', "vmm_rss_bytes"]))
        selector = parse_selector(text)
        wanted = [
            (t_ms, name)
            for place, t_ms, name in rows
            if place[::2] >= begin[::2]
            and (place[::2] >= end[::2] or t_ms > done_ms)
            and all(one.matches(name) for one in selector.matchers if one.label == "tenant")
        ]
        found = Store(tmp_path).oldest_after(begin, end, done_ms, selector)
        assert (found and found[0]) == min(wanted, default=(None,))[0]
        assert found is None or found in wanted
    other = Position(places[0].number, bytes(8), 0)  # another history: by time alone
    late = [(t_ms, name) for place, t_ms, name in rows if place.number > other.number or t_ms > rows[0][1]]
    found = Store(tmp_path).oldest_after(other, None, rows[0][1], parse_selector("{}"))
    assert found is not None
    assert found[0] == min(late)[0]
    assert Store(tmp_path).oldest_after(None, None, 0, parse_selector("{}")) is not None
