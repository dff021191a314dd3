"""`stream`: sessions as the stream that they were stored from."""

from __future__ import annotations

import sys
from typing import Any

from rondo_tools.errors import UsageError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Turn stored sessions back into the stream that rondo-store reads: to merge stores, to move a VM's life
to another one, to keep it in a file.

  rondo-query vmm_metrics stream | rondo-store all_metrics
  rondo-query vmm_metrics stream '{{instance="vm-1"}}' > vm-1.stream

Each session goes whole, with all its series and every tick that is still there: of one that is over the
last ten minutes at least, of one that is still running what there is now. How many ticks are no longer
there is said on standard error. Given to the same store again, it changes nothing.

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
