"""`check`: looks for damage in the store."""

from __future__ import annotations

import logging
from typing import Any

HELP = """\
Look for damage in the store, also while it is written: one line per finding, with the file and the damage.
It checks every frame of every file, the references between files, and that coarse rows are the roll-up of
their ticks, if these still exist.

  rondo-query vmm_metrics check && tar czf vmm_metrics.tgz vmm_metrics
  rondo-query vmm_metrics check | cut -d: -f1 | sort | uniq -c

The exit status is 0 if nothing is damaged, else 65; also if a file could not be read, for example without
permission. A damaged frame is never read as data: damage costs only the frames that it hit.
"""

log = logging.getLogger(__name__)


def check(**flags: Any) -> None:
    from rondo_tools.errors import StoreError
    from rondo_tools.query.check import Checker
    from rondo_tools.store.reader import Store

    checker = Checker(Store(flags["store"]))
    for line in checker.lines():
        print(line)
    if not checker.is_good:
        raise StoreError(str(checker))
    log.info("%s", checker)
