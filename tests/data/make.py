"""Makes the golden files anew: `python tests/data/make.py`.

    store_2/       a store of format 2 with something in every folder
    store_2.json   what a reader must find in it
    dump_1.bin     a dump of that store, of version 1, with a cursor
    stream_1.bin   a stream of version 1 with every kind of message
    stream_1.json  what a reader must find in that

They are what files of today look like, kept for the versions to come: once released, they are not made
anew, but others are made beside them. Float64 values are hexadecimal, as `float.hex` writes them.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

from rondo_tools import stream
from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.format.cursor import Position, Progress, pack_progress
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.opened import read_store_json
from tests.support.restore_host import dumped
from tests.support.store import look_truth as truth
from tests.support.store.journal_fixtures import SCHEMAS, SMALL_TIERS, T0, Writer, fill, union_of
from tests.support.streams import encoded

HERE = Path(__file__).parent
NAME = "vm/ü 3"


def make_store(path: Path) -> list[dict[str, Any]]:
    """The store; gives what must be found in it."""
    shutil.rmtree(path, ignore_errors=True)
    with Writer(path, SMALL_TIERS, seed=2, per_frame=3, last_ms=20_000) as writer:
        key = NAME, T0 + 7
        writer.tick(key, T0 + 1_007, (math.inf, -0.0), labels=(("host", "ö"), ("team", 'a"b')))
        writer.end(key, "lost", T0 + 1_007)
        fill(writer)
        writer.tick(key, T0 + 100_000, (5e-324, math.nan, -math.inf), SCHEMAS[1])
        writer.end(key, "hibernated", T0 + 100_001)  # a reason that nobody knows yet
        writer.flush()
        return [found(writer, key) for key in sorted(writer.lives)]


def make_dump(path: Path) -> bytes:
    """A dump of the store, and of a cursor that has delivered half of its second journal."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(shutil.copytree(path, Path(folder) / "store"))
        with FrameFile(Layout(store).file(JOURNALS, 2)) as file:
            at = [at for at, _, _ in file.frames()]
            middle = Position(2, file.header.file_id, at[len(at) // 2])
        cursor = Progress(store=read_store_json(store).store_id.hex(), begin=middle, time_ms=T0 + 20_000)
        Layout(store).cursor("prometheus").write_bytes(pack_progress(cursor, None))
        return dumped(store)


def found(writer: Writer, key: tuple[str, int]) -> dict[str, Any]:
    life = writer.lives[key]
    tiers = [truth.raw(writer.there(key))]
    tiers += [truth.rolled_up(life.ticks, tier.interval_ms) for tier in writer.tiers[1:]]
    return {
        "instance": key[0],
        "start_ms": key[1],
        "interval_ms": life.interval_ms,
        "labels": dict(life.labels),
        "end": life.end and [life.end.reason, life.end.t_ms],
        "ticks": len(life.ticks),
        "first_ms": life.ticks[0].t_ms,
        "last_ms": life.last_ms,
        "series": [one.name for one in union_of(life.ticks).series],
        "tiers": [
            {
                str(t_ms): {f"{name} {aggregate}": bits.decode() for (name, aggregate), bits in row.items()}
                for t_ms, row in rows.items()
            }
            for rows in tiers
        ],
    }


def make_stream() -> list[stream.Event]:
    counter = Series("exits_total", (("reason", "io"),), COUNTER, "exits", "Exits, by reason.")
    gauge = Series("rss_bytes", (), GAUGE, "", "")
    header = stream.Header(NAME, T0, (("host", "ö"),), 1000, (counter, gauge))

    def tick(t_ms: int, *values: float) -> stream.Tick:
        return stream.Tick(t_ms, struct.pack(f"<{len(values)}d", *values))

    events: list[stream.Event] = [header]
    events += [tick(T0 + 1000 * n, n, value) for n, value in enumerate((0.5, math.nan, math.inf, -0.0), 1)]
    events += [header, tick(1, 1.0, 2.0), tick(stream.MAX_T_MS, 5e-324, -1.7976931348623157e308)]
    events += [header._replace(series=(gauge,)), tick(T0 + 9000, 3.0)]
    for n, reason in enumerate(stream.END_REASONS):
        other = header._replace(instance="vm-2", start_ms=T0 + n, labels=(), series=(gauge,))
        events += [other, stream.End(reason, T0 + n + 1)]
    return events


def shown(event: stream.Event) -> dict[str, Any]:
    if isinstance(event, stream.Tick):
        values = struct.unpack(f"<{len(event.values) // 8}d", event.values)
        return {"t_ms": event.t_ms, "values": [value.hex() for value in values]}
    if isinstance(event, stream.End):
        return {"end": event.reason, "t_ms": event.t_ms}
    return stream.header_to_map(event)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    write_json(HERE / "store_2.json", make_store(HERE / "store_2"))
    (HERE / "dump_1.bin").write_bytes(make_dump(HERE / "store_2"))
    events = make_stream()
    (HERE / "stream_1.bin").write_bytes(encoded(*events))
    write_json(HERE / "stream_1.json", list(map(shown, events)))
