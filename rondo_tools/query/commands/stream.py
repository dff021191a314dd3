"""`stream`: writes sessions as the stream that they were stored from."""

from __future__ import annotations

import sys
from typing import Any

from rondo_tools.errors import UsageError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Turn stored sessions back into the stream that rondo-store reads: to merge stores, to move a session to
another store, or to keep it in a file.

  rondo-query vmm_metrics stream | rondo-store all_metrics
  rondo-query vmm_metrics stream '{{instance="vm-1"}}' > vm-1.stream

Each session is written with all its series and every tick that the store still has: at least the last ten
minutes of an ended session, and the current ticks of a running one. The number of missing ticks goes to
standard error. If the same store reads the stream again, nothing changes.

{SELECTOR}
"""


@share.some_sessions("")
def stream(selector: str, **flags: Any) -> None:
    from rondo_tools.query import replay
    from rondo_tools.query.damage import Damage

    if sys.stdout.isatty():
        raise UsageError("a stream is no text for a terminal: write it to a file or a pipe")
    store, wanted = open_store(flags["store"], selector)
    sessions = [match.session for match in find(store, wanted)]
    damage = Damage(store)
    for message in replay.messages(sessions, damage):
        sys.stdout.buffer.write(message)
    sys.stdout.buffer.flush()
    damage.finish()
