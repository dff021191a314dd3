"""`export`: prints samples for other programs."""

from __future__ import annotations

import sys
from typing import Any

import argh

from rondo_tools import command
from rondo_tools.errors import UsageError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import ask
from rondo_tools.query.manual import SELECTOR

HELP = f"""\
Print samples for other programs. csv and jsonl have the records of `read`; openmetrics is for Prometheus'
promtool, which makes blocks of it, so that Prometheus can get samples that were never pushed:

  rondo-query vmm_metrics export '{{}}' --format openmetrics --label job=rondo-vmm > vmm.om
  promtool tsdb create-blocks-from openmetrics vmm.om /var/lib/prometheus

  rondo-query vmm_metrics export '{{instance="vm-1"}}' --format jsonl --tier 1 | gzip > vm-1.jsonl.gz
  rondo-query vmm_metrics export vmm_rss_bytes --pivot --format csv > memory.csv

rondo-push adds the label job="rondo-vmm" to every series; to continue its series, add it here.

{SELECTOR}
"""


@share.together(share.question, share.rate, share.combining, share.pivot)
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
    help="add a label to all series, such as job=rondo-vmm; repeatable",
)
@share.times
def export(selector: str, **flags: Any) -> None:
    from rondo_tools.query import curve, openmetrics, samples

    format = {"jsonl": "json"}.get(flags["format"], flags["format"])
    if format == "openmetrics":
        _refuse_computed_samples(flags)
    matches, reader = ask(selector, flags)
    matches = curve.with_labels(matches, flags["label"])
    if format == "openmetrics":
        count = openmetrics.write(sys.stdout, matches, reader)
    else:
        count = samples.write(sys.stdout, format, matches, reader, flags)
    reader.finish(matches, found=count > 0)


def _refuse_computed_samples(flags: dict[str, Any]) -> None:
    """OpenMetrics is for samples as they were stored, with their times and names."""
    made = [how] if (how := share.how(flags)) else []
    made += [name for name in ("topk", "rate", "since_birth", "pivot") if flags[name]]
    if made:
        raise UsageError(
            f"--{made[0].replace('_', '-')}: openmetrics has only stored samples; use --format csv"
        )
