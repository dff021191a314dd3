"""Batches of a slice of a stretch: the rows of one request each, as columns.

Strategy: a batch is a range of the slice's rows, so one number in the cursor says which rows are done.
Samples that are unselected, too old or forgotten are left out of a batch, but their rows still count.
A session's labels are made once and kept as long as its stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools import selector
from rondo_tools.catalog import COUNTER, Series
from rondo_tools.prom.samples import Block, Labels, SeriesSet
from rondo_tools.push.model import MAX_BYTES, SAMPLE_BYTES, Batch
from rondo_tools.push.stretch import Slice, Stretch
from rondo_tools.store.format.records import SessionRecord
from rondo_tools.store.format.schema import AVG, LAST, Schema
from rondo_tools.stream import Header


class _Pattern(NamedTuple):
    """The columns to send of one schema, with series and labels; sessions with equal labels share it."""

    columns: npt.NDArray[np.intp]
    series: tuple[Series, ...]
    labels: tuple[Labels, ...]


class _Sent(NamedTuple):
    """The columns to send of a session's rows of one schema, with their series."""

    columns: npt.NDArray[np.intp]
    series_set: SeriesSet


_NOTHING = _Sent(np.empty(0, np.intp), SeriesSet((), (), ""))


class Batches:
    """Makes the batches of one stretch of `tier`.

    `labels` returns the sent labels of a header's series; `wanted` selects series.
    """

    def __init__(
        self,
        stretch: Stretch,
        tier: int,
        labels: Callable[[Header], tuple[Labels, ...]],
        wanted: selector.Selector | None,
        max_samples: int,
    ) -> None:
        self._stretch = stretch
        self._tier = tier
        self._labels = labels
        self._wanted = wanted
        self._max_samples = max_samples
        self._sent: dict[tuple[int, Schema], _Sent] = {}
        self._patterns: dict[tuple[Schema, Labels], _Pattern] = {}

    def of(self, one: Slice, done: int, oldest_ms: int = 0) -> Iterator[Batch]:
        """The batches of a slice from row `done` on.

        Each has at most `max_samples` and about MAX_BYTES before compression, or is one row.
        """
        if done >= one.t_ms.size:
            return
        # A run is consecutive rows of one session and one schema.
        begins = np.flatnonzero(
            (np.diff(one.session, prepend=-1) != 0) | (np.diff(one.part, prepend=-1) != 0)
        )
        sent = [
            self._sent_of(session, one.parts[part][0])
            for session, part in zip(one.session[begins].tolist(), one.part[begins].tolist(), strict=True)
        ]
        markers = self._markers(one, dict(zip(begins.tolist(), sent, strict=True)))
        widths = np.array([item.columns.size for item in sent])
        edges = np.append(begins, one.t_ms.size)
        lengths = np.diff(edges)
        samples = np.repeat(widths, lengths)
        # A request has the labels once for each run.
        labels = np.array([item.series_set.label_bytes for item in sent])
        for at, marker in markers.items():  # each is at the beginning of a run
            samples[at] += marker.values.size
            labels[begins.searchsorted(at)] += marker.series_set.label_bytes
        total = np.cumsum(samples)
        size = SAMPLE_BYTES * total
        size += np.repeat(np.cumsum(labels), lengths)
        begin = done
        while begin < one.t_ms.size:
            first = int(begins.searchsorted(begin, "right")) - 1
            before = int(total[begin - 1]) if begin else 0
            end = int(total.searchsorted(before + self._max_samples, "right"))
            before = int(size[begin - 1]) if begin else 0
            again = 0 if begins[first] == begin else int(labels[first])
            end = min(end, int(size.searchsorted(before + MAX_BYTES - again, "right")))
            end = _at_an_edge(edges, begin, max(end, begin + 1))
            last = int(begins.searchsorted(end, "left"))
            blocks, passed_over = [], 0
            for run in range(first, last):
                rows = slice(max(begin, int(begins[run])), min(end, int(begins[run] + lengths[run])))
                if rows.start in markers and int(one.t_ms[rows.start]) >= oldest_ms:
                    blocks.append(markers[rows.start])
                block = self._block(one, rows, sent[run])
                if oldest_ms and int(block.t_ms[0]) < oldest_ms:
                    young = int(block.t_ms.searchsorted(oldest_ms))
                    passed_over += block.values[:young].size
                    block = block._replace(t_ms=block.t_ms[young:], values=block.values[young:])
                if block.values.size:
                    blocks.append(block)
            yield Batch(begin, end, tuple(blocks), passed_over)
            begin = end

    def _block(self, one: Slice, rows: slice, sent: _Sent) -> Block:
        """The block of one run; its rows are mostly consecutive in their part."""
        values = one.parts[int(one.part[rows.start])][1]
        at = one.row[rows]
        first, last = int(at[0]), int(at[-1])
        taken = values[first : last + 1] if last - first == at.size - 1 else values[at]
        if sent.columns.size != taken.shape[1]:
            taken = taken[:, sent.columns]
        start_ms = self._stretch.sessions[int(one.session[rows.start])].record.start_ms
        return Block(sent.series_set, one.t_ms[rows], taken, start_ms)

    def _markers(self, one: Slice, sent: Mapping[int, _Sent]) -> dict[int, Block]:
        """Stale markers, by the row of a change, for the series that are not sent from that row on."""
        found = {}
        for at, (record, schema) in one.changes:
            if record.is_forgotten:
                continue
            had, has = self._pattern(record, schema), set(sent[at].series_set.labels)
            series_set = SeriesSet(had.series, had.labels, record.instance)
            gone = [number for number, labels in enumerate(series_set.labels) if labels not in has]
            if gone:
                gone_set = SeriesSet(
                    tuple(had.series[number] for number in gone),
                    tuple(had.labels[number] for number in gone),
                    record.instance,
                )
                nothing = np.full((1, len(gone)), np.nan)
                found[at] = Block(gone_set, one.t_ms[at : at + 1], nothing, record.start_ms)
        return found

    def _sent_of(self, session: int, schema: Schema) -> _Sent:
        found = self._sent.get((session, schema))
        if found is None:
            record = self._stretch.sessions[session].record
            if record.is_forgotten:
                found = self._sent[session, schema] = _NOTHING
                return found
            # A selector may match the instance, so sessions cannot share its result.
            shared = None if self._wanted else (schema, record.labels)
            pattern = self._patterns.get(shared) if shared else None
            if pattern is None:
                pattern = self._pattern(record, schema)
                if shared:
                    self._patterns[shared] = pattern
            series_set = SeriesSet(pattern.series, pattern.labels, record.instance)
            found = self._sent[session, schema] = _Sent(pattern.columns, series_set)
        return found

    def _pattern(self, record: SessionRecord, schema: Schema) -> _Pattern:
        header = Header(record.instance, record.start_ms, record.labels, record.interval_ms, schema.series)
        numbers = [
            number
            for number, series in enumerate(schema.series)
            if self._wanted is None or self._wanted.matches(selector.labels_of(header, series))
        ]
        labels = self._labels(header)
        return _Pattern(
            np.array(numbers, np.intp) if self._tier == 0 else _sent_columns(schema)[numbers],
            tuple(schema.series[number] for number in numbers),
            tuple(labels[number] for number in numbers),
        )


def _sent_columns(schema: Schema) -> npt.NDArray[np.intp]:
    """The column of a coarse row to send for each series: a counter's last value, a gauge's average."""
    places = {(column.series, column.aggregate): at for at, column in enumerate(schema.coarse)}
    return np.array(
        [places[number, LAST if one.kind == COUNTER else AVG] for number, one in enumerate(schema.series)],
        np.intp,
    )


def _at_an_edge(edges: npt.NDArray[np.intp], begin: int, full: int) -> int:
    """`full`, or the last edge between two runs before it if most of the request is still used then.

    Splitting a short run costs more than it saves.
    """
    whole = int(edges[edges.searchsorted(full, "right") - 1])
    return whole if 8 * (whole - begin) >= 7 * (full - begin) else full
