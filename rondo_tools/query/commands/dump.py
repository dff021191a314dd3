"""`dump`: writes a whole store, for `rondo-store --restore`."""

from __future__ import annotations

import sys
from typing import Any

from rondo_tools.errors import UsageError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Write the whole store as one stream of frames, also while it is written: every tick, the rows of all tiers,
ended sessions, and the cursors of pushes. `rondo-store DIR --restore` reads it.

  rondo-query vmm_metrics dump | rondo-store moved_metrics --restore
  rondo-query vmm_metrics dump | zstd > vmm_metrics.dump.zst
  rondo-query vmm_metrics dump '{{instance="vm-1"}}' > vm-1.dump

Ticks that arrive after the dump has begun are not in it. To move a store, stop rondo-store and rondo-push
first.

{SELECTOR}
"""


@share.some_sessions("; then the dump has no cursors")
def dump(selector: str, **flags: Any) -> None:
    from rondo_tools.query.damage import Damage

    if sys.stdout.isatty():
        raise UsageError("a dump is no text for a terminal: write it to a file or a pipe")
    store, wanted = open_store(flags["store"], selector)
    keys = None
    if wanted.matchers:
        keys = {match.session.key for match in find(store, wanted)}
    store.dump(sys.stdout.buffer.write, keys)
    sys.stdout.buffer.flush()
    Damage(store).finish()
