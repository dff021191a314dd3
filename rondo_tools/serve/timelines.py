"""The series of a store as in Prometheus: one for all lives of a label set, in order.

Strategy: the result is the same as after a delivery by rondo-push: the same labels, the same order of an
instance's lives, a stale marker where a life ends and where a series goes away. Matchers on a session's
labels are evaluated once a session, the others once a schema; so a query about a thousand VMs is a few
columns, read in one pass. Rows before the start of a tier come from the next coarser one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from rondo_tools.catalog import Series
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.lives import marker_ms
from rondo_tools.prom.samples import INSTANCE, Labels
from rondo_tools.prom.wire import Run
from rondo_tools.selector import NAME, Selector, rest_of
from rondo_tools.serve.http import HttpError
from rondo_tools.serve.merged import Life, has_marker, merged
from rondo_tools.store.reader import Piece, Question, Session, Store, TooMuchError, Wanted
from rondo_tools.stream import Header

_NOBODY = "\0"  # a placeholder for the instance in labels that sessions share


class Naming(NamedTuple):
    """The labels that every series gets, as in rondo-push."""

    job: str
    external: Mapping[str, str]


class Asked(NamedTuple):
    """A query; `start_ms` and `end_ms` are both included."""

    selector: Selector
    start_ms: int
    end_ms: int
    tier: int = 0
    aggregate: str = "avg"
    max_samples: int = 5_000_000


class Sample(NamedTuple):
    series: Series
    labels: Labels
    t_ms: int
    value: float


class _Pick:
    """Picks a schema's series by the matchers that a session's own labels leave over; shared by all sessions
    with the same rest."""

    def __init__(self, rest: Selector, added: tuple[tuple[str, str], ...]) -> None:
        self._rest, self._added = rest, added

    def __call__(self, series: tuple[Series, ...]) -> tuple[int, ...]:
        own = {name for one in series for name, _ in one.labels}
        added = {name: value for name, value in self._added if name not in own}
        return tuple(
            number
            for number, one in enumerate(series)
            if self._rest.matches({NAME: one.name, **added, **dict(one.labels)})
        )


_Picks = dict[tuple[Selector, tuple[tuple[str, str], ...]], _Pick]


class Timelines:
    """Answers queries about the series of `store`. Not thread-safe."""

    def __init__(self, store: Store, naming: Naming) -> None:
        self._store = store
        self._naming = naming

    def labels(self, asked: Asked) -> list[Labels]:
        """The label sets with a sample in the range, sorted."""
        found: set[Labels] = set()
        for one in self._wanted(asked)[0]:
            series = one.session.header.series
            numbers = one.pick(series)
            if numbers:
                labels = self._labels_of(one.session, series)
                found.update(labels[number] for number in numbers)
        return sorted(found)

    def runs(self, asked: Asked) -> Iterator[Run[Labels]]:
        """The rows of all series that match, by instance, in time order.

        Raises HttpError for more than `max_samples`.
        """
        wanted, starts_ms = self._wanted(asked)
        pieces = self._read(wanted, asked)
        lives: dict[str, list[Life]] = {}
        for one, some in zip(wanted, pieces, strict=True):
            lives.setdefault(one.session.instance, []).append(Life(one.session, some))
        for instance in sorted(lives):
            yield from self._of_instance(lives[instance], starts_ms[instance], asked)

    def latest(self, asked: Asked) -> list[Sample]:
        """The last tick in the range of each session that has not ended, one sample for each series."""
        wanted = [one for one in self._wanted(asked)[0] if one.session.end is None]
        question = Question(0, asked.start_ms - 1, asked.end_ms, max_values=asked.max_samples)
        found = []
        for one, pieces in zip(wanted, self._store.read(wanted, question), strict=True):
            if pieces:
                piece = pieces[-1]
                values = piece.values[-1].tolist()
                for labels, series, value in zip(
                    self._names(one.session, piece), piece.series, values, strict=True
                ):
                    found.append(Sample(series, labels, int(piece.t_ms[-1]), value))
        return found

    def _wanted(self, asked: Asked) -> tuple[list[Wanted], dict[str, list[int]]]:
        """The sessions that may have rows in the range, with their matching series; and the starts of their
        instances' lives.

        If one life of an instance matches, all its lives are wanted, those that do not match only for their
        times: rows left out, and the ends of series, must not depend on the query.
        """
        named = [m.value for m in asked.selector.matchers if (m.label, m.operator) == (INSTANCE, "=")]
        sessions = self._store.sessions(instance=named[0] if named else None, since_ms=max(asked.start_ms, 0))
        picks: _Picks = {}
        found = []
        for _, lives in groupby(sessions, key=attrgetter("instance")):
            mine = [Wanted(one, self._pick(one, asked, picks)) for one in lives]
            if any(one.pick is not _nothing for one in mine):
                found += mine
        starts_ms: dict[str, list[int]] = {}
        for one in found:
            starts_ms.setdefault(one.session.instance, []).append(one.session.start_ms)
        return [one for one in found if one.session.ticks and one.session.first_ms <= asked.end_ms], starts_ms

    def _pick(
        self,
        session: Session,
        asked: Asked,
        picks: _Picks,
    ) -> Callable[[tuple[Series, ...]], tuple[int, ...]]:
        rest = rest_of(asked.selector, session.instance, session.labels)
        if rest is None:
            return _nothing
        sent, known = {"job": self._naming.job, **self._naming.external}, dict(session.labels)
        added = tuple((name, value) for name, value in sent.items() if name not in known)
        return picks.setdefault((rest, added), _Pick(rest, added))

    def _read(self, wanted: Sequence[Wanted], asked: Asked) -> list[list[Piece]]:
        """Rows of the chosen tier, preceded by those of coarser tiers where it does not reach back."""
        left = asked.max_samples
        found: list[list[Piece]] = [[] for _ in wanted]
        places = list(range(len(wanted)))
        for tier in range(asked.tier, len(self._store.tiers)):
            question = Question(tier, asked.start_ms - 1, asked.end_ms, asked.aggregate, left)
            try:
                read = self._store.read([wanted[place] for place in places], question)
            except TooMuchError:
                raise HttpError(
                    HTTPStatus.BAD_REQUEST,
                    f"more than {asked.max_samples} samples: query fewer series, a shorter range or a "
                    "larger step, or start rondo-serve with a greater --max-samples",
                ) from None
            incomplete = []
            for place, pieces in zip(places, read, strict=True):
                if found[place]:
                    pieces = list(_before(pieces, int(found[place][0].t_ms[0])))
                left -= sum(piece.values.size for piece in pieces)
                found[place] = pieces + found[place]
                session = wanted[place].session
                since_ms = max(asked.start_ms, session.first_ms)
                step_ms = max(session.interval_ms, self._store.tiers[tier].interval_ms if tier else 0)
                if not found[place] or int(found[place][0].t_ms[0]) > since_ms + step_ms:
                    incomplete.append(place)
            places = incomplete
            if not places:
                break
        return found

    def _of_instance(self, lives: list[Life], starts_ms: list[int], asked: Asked) -> Iterator[Run[Labels]]:
        lives.sort(key=lambda life: life.session.start_ms)
        names_of = {id(piece): self._names(life.session, piece) for life in lives for piece in life.pieces}
        marked = [has_marker(life, starts_ms, asked.end_ms) for life in lives]
        of_life: dict[int, tuple[Labels, ...]] = {}  # the last labels of each life
        of_all: tuple[Labels, ...] = ()
        for number, piece, some in merged(lives, marked):
            names = names_of[id(piece)]
            if some is None:
                yield from _marker(marker_ms(lives[number].session.last_ms), names)
                of_all = ()
                continue
            t_ms, had = piece.t_ms[some], of_life.get(number, of_all)
            if had is not names:
                yield from _marker(int(t_ms[0]), tuple(dict.fromkeys(had).keys() - dict.fromkeys(names)))
            of_life[number] = of_all = names
            if names:
                yield Run(names, t_ms, piece.values[some])

    def _names(self, session: Session, piece: Piece) -> tuple[Labels, ...]:
        if not piece.numbers:
            return ()
        labels = self._labels_of(session, piece.schema.series)
        return tuple(labels[number] for number in piece.numbers)

    def _labels_of(self, session: Session, series: tuple[Series, ...]) -> tuple[Labels, ...]:
        pattern = _pattern(session.labels, series, self._naming.job, tuple(self._naming.external.items()))
        mine = (INSTANCE, session.instance)
        return tuple(tuple(mine if pair[0] == INSTANCE else pair for pair in labels) for labels in pattern)


@lru_cache(maxsize=256)
def _pattern(
    labels: tuple[tuple[str, str], ...],
    series: tuple[Series, ...],
    job: str,
    external: tuple[tuple[str, str], ...],
) -> tuple[Labels, ...]:
    """The labels of a session's series, with a placeholder for the instance."""
    return sent_labels(Header(_NOBODY, 0, labels, 1000, series), job, dict(external))


def _before(pieces: Iterable[Piece], before_ms: int) -> Iterator[Piece]:
    for piece in pieces:
        count = int(piece.t_ms.searchsorted(before_ms))
        if count:
            yield piece._replace(t_ms=piece.t_ms[:count], values=piece.values[:count])


def _nothing(_: tuple[Series, ...]) -> tuple[int, ...]:
    """Picks none of a session's series: only its times are wanted."""
    return ()


def _marker(at_ms: int, names: tuple[Labels, ...]) -> Iterator[Run[Labels]]:
    if names:
        yield Run(names, np.array([at_ms], np.int64), np.full((1, len(names)), np.nan))
