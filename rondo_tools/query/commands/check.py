"""`check`: is all of the store whole?"""

from __future__ import annotations

import logging
from typing import Any

HELP = """\
Look for damage in the store, also while it is written: one line a finding, the file and what is wrong
with it. Every frame of every file, what the files say of one another, and that the coarse rows are the
roll-up of the ticks, where these are still there.

  rondo-query vmm_metrics check && tar czf vmm_metrics.tgz vmm_metrics
  rondo-query vmm_metrics check | cut -d: -f1 | sort | uniq -c

The exit status is 0 when there is nothing wrong, 65 when there is, or when something could not be looked
at, for want of permission perhaps. A frame that is not whole is served to nobody: damage costs what it
hit.
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
