"""`read`: samples as text."""

from __future__ import annotations

import sys
from typing import Any

from rondo_tools.query import flags as share
from rondo_tools.query.ask import ask
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Print samples, one a line: time, session, series, value, each session by itself.

  rondo-query vmm_metrics read 'vcpu_exits_total{{reason="io"}}' --rate --range 10m
  rondo-query vmm_metrics read vmm_rss_bytes | awk '$4+0 > m {{m = $4}} END {{print m}}'
  rondo-query vmm_metrics read '{{}}' --format json | jq -c 'select(.value == null)'

{SELECTOR}
"""


@share.together(share.question, share.rate, share.format)
def read(selector: str, **flags: Any) -> None:
    from rondo_tools.query import output

    matches, reader = ask(selector, flags)
    writer = output.SampleWriter(sys.stdout, flags["format"], share.face(sys.stdout, flags), matches=matches)
    for each in reader.curves(matches):
        writer.write(each)
    reader.finish(matches, found=writer.samples > 0)
