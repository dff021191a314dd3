"""docs/formats.md against the code: the journal that it shows byte by byte."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.store.format import frames
from rondo_tools.store.format.records import EndRecord, SessionRecord, pack_ends
from rondo_tools.store.format.schema import schema_of
from rondo_tools.store.frame_writer import FrameWriter
from rondo_tools.store.journal_view import JournalView
from tests.support.store import mini_reader

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
T_MS = 1_732_125_224_059
KEY = "vm-1", T_MS - 59
SERIES = Series("exits_total", (("reason", "io"),), COUNTER, "", "")


def shown() -> bytes:
    """The bytes of the journal on the page."""
    lines = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} {0,2})+)$", PAGE.read_text(), re.MULTILINE)
    assert [int(at, 16) for at, _ in lines] == list(range(0, 16 * len(lines), 16))
    return bytes.fromhex("".join(line for _, line in lines))


def test_the_pages_journal_equals_the_stores(tmp_path: Path) -> None:
    header = frames.FileHeader(1, bytes.fromhex("0123456789abcdef"), bytes.fromhex("fedcba9876543210"))
    writer = FrameWriter(tmp_path / "0000000001", header)
    schema = writer.schema(schema_of((SERIES,)))
    number = writer.session(KEY, lambda number: SessionRecord(number, *KEY, 1000, (), 0, 0))
    rows = np.array([(number, T_MS, (1.5,))], frames.row_dtype(1))
    for frame in frames.rows_frames(writer.seed, rows, schema):
        writer.add(frame)
    end = pack_ends([EndRecord(number, T_MS + 1, "poweroff", T_MS)])
    writer.add(frames.frame(writer.seed, frames.END, end))
    writer.write()
    writer.close()
    assert (tmp_path / "0000000001").read_bytes() == shown()


def test_readers_read_the_pages_journal(tmp_path: Path) -> None:
    path = tmp_path / "0000000001"
    path.write_bytes(shown())
    series = "exits_total", (("reason", "io"),), COUNTER
    assert [row[1:] for row in mini_reader.rows(path, 0)] == [(KEY, T_MS, {(series, "last"): 1.5})]
    journal = JournalView(path)
    journal.update()
    ((schema, rows),), skipped = journal.rows_of(KEY)
    assert (schema.series, rows["t_ms"].tolist(), rows["values"].tolist(), skipped) == (
        (SERIES,), [T_MS], [[1.5]], 0,
    )  # fmt: skip
    assert journal.ends == {0: [EndRecord(0, T_MS + 1, "poweroff", T_MS)]}
    journal.close()
