"""A store of fifty VMs whose answers are known, for the questions of docs/query.md.

The time is 03:05 (`NOW_MS`); the store has the fifteen minutes before, a tick per second.

| instance | its history |
|---|---|
| vm-00 … vm-49 | 100 exits/s, 64 MiB of memory, label tenant=a (even numbers) or b |
| vm-17 | has most exits in the last five minutes: 5,000 exits/s, all of them `io` |
| vm-42 | had more before (20,000 exits/s until five minutes ago), and in the last ten seconds (9,000) |
| vm-23 | died at 03:00:00 (`error`); in its last ten seconds its memory doubled every second, up to 1 GiB |
| vm-07 | has two lives: 02:50 to 02:57 (`reset`; 1 MiB more each minute), and since 02:58 (10 MiB more) |
| vm-31 | is silent since 03:04:00, without an end |

One delivery, `prometheus`, is at 03:03:30: 90 s behind. Its oldest undelivered tick is that of vm-09 at
03:03:30.5; the ticks of vm-09 are half a second off the others'.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from devtools.filled_store import Life, fill
from rondo_tools.catalog import SERIES
from rondo_tools.store.format.cursor import Position, Progress, pack_progress
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.store_json import parse_store_json
from rondo_tools.stream import Header

NOW_MS = 1_795_403_100_000  # 2026-11-23T03:05:00Z
BEGIN_MS = NOW_MS - 15 * 60_000
DIED_MS = NOW_MS - 5 * 60_000
DELIVERED_MS = NOW_MS - 90_000
BURNT_MOST, BURNT_BEFORE, DIED, TWO_LIVES, SILENT, LAGS = "vm-17", "vm-42", "vm-23", "vm-07", "vm-31", "vm-09"
MIB = 1 << 20

_PLACE = {str(one): at for at, one in enumerate(SERIES)}
_IO = _PLACE['vcpu_exits_total{reason="io"}']
_HLT = _PLACE['vcpu_exits_total{reason="hlt"}']
_RSS = _PLACE["vmm_rss_bytes"]
_UPTIME = _PLACE["vmm_uptime_seconds"]


def make(path: Path) -> None:
    """Write the store to `path`, in two runs: the delivered part, and the rest."""
    lives = list(_lives())
    fill(path, [_cut(one, 0, DELIVERED_MS) for one in lives], lambda: DELIVERED_MS)
    layout = Layout(path)
    (journal,) = layout.numbers(JOURNALS)
    head = layout.file(JOURNALS, journal).read_bytes()
    end = Position(journal, head[24:32], len(head))
    store_id = parse_store_json(layout.store_json.read_bytes()).store_id.hex()
    progress = Progress(store=store_id, begin=end, time_ms=DELIVERED_MS, known=[end[:2]])
    layout.cursor("prometheus").write_bytes(pack_progress(progress, None))
    late = [_cut(one, DELIVERED_MS, NOW_MS) for one in lives]
    fill(path, [one for one in late if one.t_ms.size], lambda: NOW_MS)


def write_program(folder: Path, now_ms: int = NOW_MS) -> Path:
    """A `rondo-query` in `folder`, for the PATH of a shell; the file `clock` there sets its clock."""
    set_clock(folder, now_ms)
    program = folder / "rondo-query"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})\n"
        "from rondo_tools import clock\n"
        f"clock.now_ms = lambda: int(Path({str(folder / 'clock')!r}).read_text())\n"
        "from rondo_tools.query.cli import main\n"
        "sys.exit(main())\n"
    )
    program.chmod(0o755)
    return program


def set_clock(folder: Path, now_ms: int) -> None:
    new = folder / "clock.new"
    new.write_text(str(now_ms))
    new.replace(folder / "clock")


def _lives() -> Iterator[Life]:
    for number in range(50):
        name = f"vm-{number:02}"
        if name == TWO_LIVES:
            yield _life(name, BEGIN_MS, BEGIN_MS + 7 * 60_000, end="reset", growth=MIB / 60)
            yield _life(name, BEGIN_MS + 8 * 60_000, NOW_MS, growth=10 * MIB / 60)
        elif name == DIED:
            yield _life(name, BEGIN_MS, DIED_MS, end="error")
        elif name == SILENT:
            yield _life(name, BEGIN_MS, NOW_MS - 60_000)
        else:
            yield _life(name, BEGIN_MS + (500 if name == LAGS else 0), NOW_MS)


def _life(name: str, start_ms: int, last_ms: int, *, end: str | None = None, growth: float = 0.0) -> Life:
    """A tick per second from a second after `start_ms` up to `last_ms`; memory grows by `growth` a second."""
    t_ms = np.arange(start_ms + 1000, last_ms + 1, 1000)
    io = np.full(t_ms.size, 50.0)
    if name == BURNT_MOST:
        io[:] = 4950
    elif name == BURNT_BEFORE:
        io[t_ms <= NOW_MS - 5 * 60_000] = 19_950
        io[t_ms > NOW_MS - 10_000] = 8950
    values = np.zeros((t_ms.size, len(SERIES)))
    values[:, _IO] = np.cumsum(io)
    values[:, _HLT] = np.cumsum(np.full(t_ms.size, 50.0))
    values[:, _UPTIME] = (t_ms - start_ms) / 1000
    values[:, _RSS] = 64 * MIB + growth * values[:, _UPTIME]
    if name == DIED:
        values[-10:, _RSS] = [2 * MIB * 2.0**second for second in range(10)]
    labels = (("tenant", "ab"[int(name[3:]) % 2]),)
    return Life(Header(name, start_ms, labels, 1000, SERIES), t_ms, values, end)


def _cut(life: Life, after_ms: int, upto_ms: int) -> Life:
    """The ticks in after_ms < t_ms <= upto_ms, and the end if it is there."""
    there = (life.t_ms > after_ms) & (life.t_ms <= upto_ms)
    ends = after_ms < int(life.t_ms[-1]) <= upto_ms
    return life._replace(t_ms=life.t_ms[there], values=life.values[there], end=life.end if ends else None)
