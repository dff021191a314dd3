"""`series`, `labels` and `values`: list the metrics and labels of a store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import argh

from rondo_tools.errors import RondoError
from rondo_tools.query import flags as share
from rondo_tools.query.ask import find, open_store
from rondo_tools.query.manual import SELECTOR

if TYPE_CHECKING:
    from rondo_tools.query.known import Known
    from rondo_tools.store.reader import Store

SERIES_HELP = f"""\
List the series: a line for each metric with its kind, its unit, the number of instances that have it, the
labels of its series besides those of the VM, and its help.

  rondo-query vmm_metrics series
  rondo-query vmm_metrics series vm-1                        # of one VM
  rondo-query vmm_metrics series '{{__name__=~"blk_.+"}}'

{SELECTOR}"""

LABELS_HELP = """\
List the labels: the number of values of each, and of the instances that have it.

  rondo-query vmm_metrics labels
  rondo-query vmm_metrics labels --match vcpu_exits_total
"""

VALUES_HELP = """\
List the values of a label, and the number of instances that have each.

  rondo-query vmm_metrics values reason
  rondo-query vmm_metrics values instance --match '{tenant="a"}'
  rondo-query vmm_metrics values __name__ --format json | jq -r .value
"""

_match = argh.arg("--match", metavar="SELECTOR", default="{}", help="only of matching series")


@argh.arg("selector", nargs="?", metavar="SELECTOR", default="{}", help="which series (default: {}, all)")
@share.format_or_page
def series(selector: str, **flags: Any) -> None:
    store, known = _known(flags["store"], selector)
    metrics = known.metrics
    _write(
        store,
        flags,
        {
            "name": list(metrics),
            "kind": [one.kind for one in metrics.values()],
            "unit": [one.unit for one in metrics.values()],
            "instances": [len(one.instances) for one in metrics.values()],
            "labels": [",".join(sorted(one.labels)) or None for one in metrics.values()],
            "help": [one.help for one in metrics.values()],
        },
    )


@_match
@share.format_or_page
def labels(**flags: Any) -> None:
    store, known = _known(flags["store"], flags["match"])
    found = known.labels
    _write(
        store,
        flags,
        {
            "label": list(found),
            "values": [len(values) for values in found.values()],
            "instances": [len(set().union(*values.values())) for values in found.values()],
        },
    )


@argh.arg("label", metavar="LABEL", help="its name: instance, reason, one of your own, __name__")
@_match
@share.format_or_page
def values(label: str, **flags: Any) -> None:
    from rondo_tools.query.damage import EX_NOTHING
    from rondo_tools.query.known import no_label

    store, known = _known(flags["store"], flags["match"])
    found = known.values(label)
    if found is None:
        raise RondoError(no_label(label, known), exit_code=EX_NOTHING)
    _write(
        store,
        flags,
        {"value": list(found), "instances": [len(instances) for instances in found.values()]},
    )


def _known(path: str, selector: str) -> tuple[Store, Known]:
    from rondo_tools.query.known import Known

    store, wanted = open_store(path, selector)
    return store, Known(find(store, wanted))


def _write(store: Store, flags: dict[str, Any], columns: dict[str, list[Any]]) -> None:
    from rondo_tools.query.damage import Damage
    from rondo_tools.query.output import write_columns
    from rondo_tools.query.page import page

    shown = page(sys.stdout, flags)
    if shown is None:
        write_columns(sys.stdout, flags["format"] or "table", columns, prose="help")
    else:
        print(*shown.lines(shown.columns(columns, prose="help")), sep="\n")
    Damage(store).finish()
