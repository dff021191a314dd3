"""The golden files in tests/data: files of earlier versions stay readable."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from rondo_tools import stream
from rondo_tools.store.check import Checker
from rondo_tools.store.format.cursor import parse_progress
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.reader import Store
from tests.support.restore_host import restored
from tests.support.store import look_truth as truth
from tests.support.store import mini_reader
from tests.support.store.journal_fixtures import T0

DATA = Path(__file__).parents[1] / "data"


def golden(name: str) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = json.loads((DATA / name).read_text())
    return document


@pytest.fixture(params=["store_2", "dump_1.bin"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the store, so that no test can change the original; or a dump of it, restored."""
    if request.param == "dump_1.bin":
        return restored((DATA / "dump_1.bin").read_bytes(), tmp_path / "store", lambda: T0 + 200_000)
    return Path(shutil.copytree(DATA / "store_2", tmp_path / "store"))


def as_golden(rows: dict[int, truth.Row]) -> dict[str, dict[str, str]]:
    return {
        str(t_ms): {f"{name} {aggregate}": bits.decode() for (name, aggregate), bits in row.items()}
        for t_ms, row in rows.items()
    }


def test_a_store_of_format_2_is_still_read(store: Path) -> None:
    sessions = Store(store).sessions()
    expected = golden("store_2.json")
    assert len(sessions) == len(expected)
    for session, one in zip(sessions, expected, strict=True):
        assert (session.instance, session.start_ms) == (one["instance"], one["start_ms"])
        assert (session.interval_ms, dict(session.labels)) == (one["interval_ms"], one["labels"])
        assert (session.end and list(session.end)) == one["end"]
        assert (session.ticks, session.first_ms) == (one["ticks"], one["first_ms"])
        assert session.last_ms == one["last_ms"]
        assert [series.name for series in session.header.series] == one["series"]
        for tier, rows in enumerate(one["tiers"]):
            assert as_golden(truth.served(session, tier)) == rows


def test_the_golden_store_has_no_findings(store: Path) -> None:
    assert list(Checker(store).findings()) == []


def test_the_reference_reader_reads_the_same(store: Path) -> None:
    ticks, coarse, _ = mini_reader.read(store, [tier.interval_ms for tier in Store(store).tiers])
    coarse_rows = [
        {(session, t_ms): row for (session, _), (t_ms, row) in of_tier.items()} for of_tier in coarse
    ]
    for one in golden("store_2.json"):
        for tier, found in enumerate((ticks, *coarse_rows)):
            rows = {
                t_ms: {(series[0], what): truth.bits(v) for (series, what), v in row.items() if v == v}
                for (key, t_ms), row in found.items()
                if key == (one["instance"], one["start_ms"])
            }
            assert as_golden(rows) == one["tiers"][tier]


def test_a_cursor_in_a_dump_of_version_1_keeps_its_position(tmp_path: Path) -> None:
    moved = restored((DATA / "dump_1.bin").read_bytes(), tmp_path / "store", lambda: T0 + 200_000)
    progress, in_flight = parse_progress((moved / "cursor_prometheus.json").read_bytes())
    assert in_flight is None
    assert progress.begin is not None
    with FrameFile(moved / "tier_0" / "0000000002") as file:
        at = [at for at, _, _ in file.frames()]
        assert progress.begin == (2, file.header.file_id, at[len(at) // 2])


def test_a_stream_of_version_1_is_still_read() -> None:
    decoder = stream.Decoder()
    events = [*decoder.feed((DATA / "stream_1.bin").read_bytes())]
    decoder.close()
    for event, expected in zip(events, golden("stream_1.json"), strict=True):
        if isinstance(event, stream.Header):
            assert stream.header_to_map(event) == expected
        elif isinstance(event, stream.End):
            assert event._asdict() == {"reason": expected["end"], "t_ms": expected["t_ms"]}
        else:
            values = struct.unpack(f"<{len(event.values) // 8}d", event.values)
            assert {"t_ms": event.t_ms, "values": [value.hex() for value in values]} == expected


def test_the_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 200_000
