"""The metrics, labels and label values of a store, and the instances that have them.

Strategy: most of 10,000 sessions have the same series, so each set of series is examined once, and so is
each set of the sessions' labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from rondo_tools.catalog import Series, escape
from rondo_tools.command import did_you_mean
from rondo_tools.query.curve import Match
from rondo_tools.query.names import word
from rondo_tools.selector import NAME, Selector
from rondo_tools.store.reader import Session

_MOST_NAMED, _LONGEST = 8, 200
_WORDS = {NAME: "metric", "instance": "instance"}

Instances = set[str]
Values = dict[str, Instances]


class Metric(NamedTuple):
    """`labels` are the labels of its series, without those of the VM."""

    kind: str
    unit: str
    help: str
    labels: set[str]
    instances: Instances


class Known:
    """The metrics and labels of `matches`."""

    def __init__(self, matches: Iterable[Match]) -> None:
        self._sets: dict[tuple[Series, ...], Instances] = defaultdict(set)
        self._labels: dict[tuple[tuple[str, str], ...], Instances] = defaultdict(set)
        for session, numbers in matches:
            series = session.header.series
            some = series if len(numbers) == len(series) else tuple(series[one] for one in numbers)
            self._sets[some].add(session.instance)
            self._labels[session.labels].add(session.instance)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name; the kind, unit and help are those of one of its series."""
        found: dict[str, Metric] = {}
        for some, instances in self._sets.items():
            for series in some:
                metric = found.get(series.name)
                if metric is None:
                    metric = Metric(series.kind, series.unit, series.help, set(), set())
                    found[series.name] = metric
                metric.labels.update(name for name, _ in series.labels)
                metric.instances.update(instances)
        return dict(sorted(found.items()))

    @cached_property
    def labels(self) -> dict[str, Values]:
        """For each label, `instance` first, then by name: the instances that have each value."""
        found: dict[str, Values] = defaultdict(lambda: defaultdict(set))
        for labels, instances in self._labels.items():
            for instance in instances:
                found["instance"][instance].add(instance)
            for name, value in labels:
                found[name][value].update(instances)
        for some, instances in self._sets.items():
            for name, value in {pair for series in some for pair in series.labels}:
                found[name][value].update(instances)
        order = sorted(found, key=lambda name: (name != "instance", name))
        return {name: dict(sorted(found[name].items())) for name in order}

    def values(self, label: str) -> Values | None:
        """The instances that have each value of a label; for ``__name__``, each metric."""
        if label == NAME:
            return {name: metric.instances for name, metric in self.metrics.items()}
        return self.labels.get(label)


def all_of(sessions: Sequence[Session]) -> Known:
    return Known(Match(session, tuple(range(len(session.header.series)))) for session in sessions)


def why_nothing(selector: Selector, known: Known) -> str:
    """The part of a selector because of which it matches nothing, with a suggestion."""
    for matcher in selector.matchers:
        label, is_alone = matcher.label, len(selector.matchers) == 1
        if matcher.matches(""):
            continue
        values = known.values(label)
        if values is None:
            return no_label(label, known)
        if matcher.operator != "=" or matcher.value in values:
            continue
        if is_alone and label in _WORDS:  # perhaps a bare word
            words = [*known.metrics, *known.labels["instance"]]
            return f"there is no metric or instance of that name{_did_you_mean(matcher.value, words)}"
        what = f"there is no {_WORDS[label]} {{}}" if label in _WORDS else f"no series has {label} {{}}"
        return what.format(_shown(matcher.value)) + _did_you_mean(matcher.value, values)
    return "no series has all of these labels; rondo-query STORE series lists the series"


def no_label(label: str, known: Known) -> str:
    return f"no series here has the label {label!r}{_did_you_mean(label, [*known.labels, NAME])}"


def _did_you_mean(text: str, known: Iterable[str]) -> str:
    """A similar name; else all known names, if they are few."""
    shown = list(map(_shown, known))
    is_short = len(shown) <= _MOST_NAMED and len("".join(shown)) <= _LONGEST
    return did_you_mean(text, shown) or (f"; there is {', '.join(shown)}" if shown and is_short else "")


def _shown(text: str) -> str:
    """`text` escaped as in a selector's string."""
    return word(escape(text))
