"""The labels that are sent: job and instance, the header's, the series' own, and external ones.

Strategy: validate here, because Prometheus stores whatever it gets. A session's own label, on its header or
on any of its series, takes precedence over --job and --external-label for the whole session. So all its
series get the same additional labels, and no two become equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rondo_tools.errors import UsageError
from rondo_tools.stream import MAX_TEXT, Header

if TYPE_CHECKING:
    from rondo_tools.prom.samples import Labels

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse_external(pairs: Iterable[str]) -> dict[str, str]:
    """The labels of --external-label, each ``k=v``. Raises UsageError."""
    labels: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not value or not _NAME.fullmatch(name) or name.startswith("__"):
            raise UsageError(
                f"--external-label {pair!r}: write NAME=VALUE, such as region=eu; neither may be empty"
            )
        if name in ("job", "instance"):
            flag = "--job sets it" if name == "job" else "it is the VM's name, in the stream"
            raise UsageError(f"--external-label {pair!r}: {name!r} cannot be set here, {flag}")
        if name in labels:
            raise UsageError(f"--external-label {name} is given twice")
        labels[name] = _checked(value, f"--external-label {name}")
    return labels


def parse_job(text: str) -> str:
    """The value of the label `job`. Raises UsageError if it is empty."""
    if not text:
        raise UsageError("--job is empty: leave it out, or give it a name")
    return _checked(text, "--job")


def _checked(value: str, flag: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{flag} is not valid UTF-8") from None
    if size > MAX_TEXT:
        raise UsageError(f"{flag} has {size} bytes; {MAX_TEXT} is the limit")
    return value


def sent_labels(header: Header, job: str, external: Mapping[str, str]) -> tuple[Labels, ...]:
    """The labels of each of a session's series, in the header's order, each sorted by name."""
    own = {name for name, _ in header.labels}
    own.update(name for series in header.series for name, _ in series.labels)
    added = {name: value for name, value in {"job": job, **external}.items() if name not in own}
    common = (*added.items(), *header.labels, ("instance", header.instance))
    return tuple(
        tuple(sorted((("__name__", series.name), *common, *series.labels))) for series in header.series
    )
