"""`export`: samples for other programs."""

from __future__ import annotations

import sys
from typing import Any

import argh

from rondo_tools import command
from rondo_tools.query import flags as share
from rondo_tools.query.ask import ask
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Print samples for other programs. csv and jsonl have the records of `read`; openmetrics is what
Prometheus' promtool makes blocks of, so that what was never pushed can still be put in:

  rondo-query vmm_metrics export '{{}}' --format openmetrics --label job=rondo-vmm > vmm.om
  promtool tsdb create-blocks-from openmetrics vmm.om /var/lib/prometheus

  rondo-query vmm_metrics export '{{instance="vm-1"}}' --format jsonl --tier 1 | gzip > vm-1.jsonl.gz

rondo-push gives every series the label job="rondo-vmm"; to continue its series, add it.

{SELECTOR}
"""


@share.question
@argh.arg(
    "--format",
    choices=("csv", "jsonl", "openmetrics"),
    required=True,
    help="csv and jsonl: the records of `read`; openmetrics: text with timestamps",
)
@argh.arg(
    "--label",
    metavar="NAME=VALUE",
    action="append",
    type=command.typed(share.label),
    default=[],
    help="add a label to all series, such as job=rondo-vmm; may be repeated",
)
@share.times
def export(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve, openmetrics, output

    matches, reader = ask(selector, {**flags, "rate": False})
    matches = curve.with_labels(matches, flags["label"])
    if flags["format"] == "openmetrics":
        samples = openmetrics.write(sys.stdout, matches, reader)
    else:
        format = {"jsonl": "json"}.get(flags["format"], flags["format"])
        writer = output.SampleWriter(sys.stdout, format, share.face(sys.stdout, flags), matches=matches)
        for each in reader.curves(matches):
            writer.write(each)
        samples = writer.samples
    reader.finish(matches, found=samples > 0)
