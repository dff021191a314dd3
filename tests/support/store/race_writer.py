"""Writes the store of `test_look`'s race: `python race_writer.py FOLDER CYCLES`.

Each cycle writes three ticks of each session, rolls the journal up and removes expired files. A session has
thirty ticks. The values follow from the time alone, so a reader can check them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rondo_tools.store.format.records import SessionKey
from tests.support.store.journal_fixtures import SCHEMAS, SMALL_TIERS, T0, Tick, Writer

LIFE = 30


def tick(key: SessionKey, t_ms: int) -> Tick:
    second = t_ms // 1000
    schema = SCHEMAS[second // 10 % len(SCHEMAS)]
    return Tick(key, t_ms, schema, tuple(float(second % (7 + n)) for n in range(schema.width)))


def key_at(instance: str, t_ms: int) -> SessionKey:
    """The session of an instance at a time; its first tick comes a second after its start."""
    return instance, T0 + ((t_ms - T0 - 1) // (1000 * LIFE)) * 1000 * LIFE


def ticks_until(key: SessionKey, last_ms: int) -> list[Tick]:
    last_ms = min(last_ms, key[1] + 1000 * LIFE)
    return [tick(key, t_ms) for t_ms in range(key[1] + 1000, last_ms + 1, 1000)]


class Race:
    """Writes cycle after cycle with `writer`, which was made by `a_writer`."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.cycles = 0
        self.t_ms = T0

    def cycle(self) -> None:
        writer = self.writer
        for _ in range(3):
            self.t_ms += 1000
            for instance in ("vm-1", "vm-2"):
                one = tick(key_at(instance, self.t_ms), self.t_ms)
                writer.tick(one.key, one.t_ms, one.values, one.schema)
                if one.t_ms == one.key[1] + 1000 * LIFE:
                    writer.end(one.key)
            writer.flush()
        writer.rotate()
        writer.roll_up()
        writer.remove_journals(writer.wanted_from() - 1)
        self.cycles += 1
        if self.cycles % 17 == 0:
            writer.finish_derived()


def a_writer(path: Path) -> Writer:
    return Writer(path, SMALL_TIERS, last_ms=20_000, per_frame=2)


if __name__ == "__main__":
    with a_writer(Path(sys.argv[1])) as the_writer:
        race = Race(the_writer)
        while race.cycles < int(sys.argv[2]):
            race.cycle()
