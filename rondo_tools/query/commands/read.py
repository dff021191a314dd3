"""`read`: prints samples as text."""

from __future__ import annotations

import sys
from typing import Any

from rondo_tools.query import flags as share
from rondo_tools.query.ask import ask
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Print samples, one per line: time, session, series, value, each session separately.

  rondo-query vmm_metrics read 'vcpu_exits_total{{reason="io"}}' --rate --range 10m
  rondo-query vmm_metrics read vcpu_exits_total --rate --sum --by reason --start 'yesterday 22:00' --end 6:00
  rondo-query vmm_metrics read vmm_rss_bytes --topk 3 --pivot
  rondo-query vmm_metrics read '{{instance="vm-1"}}' --session last --format csv > vm-1.csv

--sum and the like combine series in steps of one length: the longest interval of these sessions, or that of
the coarsest tier that one of them has to be read from. Each series is rolled up to these steps as in the
store: a counter has its last value in a step, a gauge the value of --aggregate. Rates are computed first,
within a session. Series of different names are never combined.

{SELECTOR}
"""


@share.together(share.question, share.rate, share.combining, share.pivot, share.format)
def read(selector: str, **flags: Any) -> None:
    from rondo_tools.query import samples

    matches, reader = ask(selector, flags)
    count = samples.write(sys.stdout, flags["format"], matches, reader, flags)
    reader.finish(matches, found=count > 0)
