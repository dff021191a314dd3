"""rondo-push's own metrics: the results of its pushes, as samples of the instance rondo-push.

Strategy: one more request follows a push that delivered something, and sends the process' tally. Its time
is that of the newest delivered sample, not the clock's: Prometheus refuses samples more than an hour
behind its newest sample from any sender, so samples at the clock's time would shut out a store that is
further behind. So the times ascend, and a push with nothing to deliver sends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rondo_tools import selector
from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.samples import Block, SeriesSet
from rondo_tools.stream import Header
from rondo_tools.units import format_count

INSTANCE = "rondo-push"

RESULTS = ("sent", "rejected", "unclear", "passed_over")
STATUSES = ("2xx", "3xx", "4xx", "5xx", "none")

SERIES = (
    *(
        Series(
            "push_samples_total",
            (("result", result),),
            COUNTER,
            "samples",
            "Samples of the store, by result.",
        )
        for result in RESULTS
    ),
    Series(
        "push_samples_retried_total",
        (),
        COUNTER,
        "samples",
        "Samples in repeated requests, counted once for each repetition.",
    ),
    Series("push_bytes_total", (), COUNTER, "bytes", "Bytes of the requests' bodies, compressed."),
    *(
        Series(
            "push_requests_total",
            (("status", status),),
            COUNTER,
            "requests",
            "Requests with samples of the store, by the answer's status.",
        )
        for status in STATUSES
    ),
    Series(
        "push_behind_seconds",
        (),
        GAUGE,
        "seconds",
        "Age of the oldest delivered sample when the push began.",
    ),
    Series(
        "push_instances_ahead",
        (),
        GAUGE,
        "instances",
        "Instances with delivered times ahead of the clock; they are held back until then.",
    ),
)


@dataclass
class Tally:
    """The results of a process' pushes, in samples; and its requests and their bytes.

    `retried` counts a sample once for each repetition.
    """

    sent: int = 0
    rejected: int = 0
    unclear: int = 0
    passed_over: int = 0
    requests: int = 0
    retried: int = 0
    bytes: int = 0
    ahead: int = 0  # instances, as of the last push
    statuses: Counter[str] = field(default_factory=Counter)  # requests, by STATUSES

    def count(self, status: int, size: int) -> None:
        """Count a request: the status of its answer, 0 for none, and the bytes of its body."""
        self.requests += 1
        self.bytes += size
        self.statuses[f"{status // 100}xx" if 200 <= status < 600 else "none"] += 1

    def count_refused(self, result: str, samples: int) -> None:
        """Count samples that were not delivered: "rejected", "unclear" or "passed_over"."""
        setattr(self, result, getattr(self, result) + samples)

    def __str__(self) -> str:
        return (
            f"{format_count(self.sent, 'sample')} sent, {self.rejected} rejected, {self.unclear} unclear, "
            f"{self.passed_over} passed over, {format_count(self.requests, 'request')}"
        )


class SelfMetrics:
    """Makes the process' own metrics, labelled with the cursor; `wanted` selects from them too."""

    def __init__(
        self,
        tally: Tally,
        cursor: str,
        job: str,
        external: Mapping[str, str],
        wanted: selector.Selector | None = None,
    ) -> None:
        self._tally = tally
        header = Header(INSTANCE, 0, (("cursor", cursor),), 1000, SERIES)
        self._chosen = [
            number
            for number, series in enumerate(SERIES)
            if wanted is None or wanted.matches(selector.labels_of(header, series))
        ]
        labels = sent_labels(header, job, external)
        self._series_set = SeriesSet(
            tuple(SERIES[number] for number in self._chosen),
            tuple(labels[number] for number in self._chosen),
        )
        self._behind_ms: dict[Path, int] = {}  # of each store's last push
        self._sent_ms = 0

    def block(self, store: Path, newest_ms: int, behind_ms: int) -> Block | None:
        """The metrics to send after a push of `store` that delivered up to `newest_ms`, if any."""
        self._behind_ms[store] = behind_ms
        if newest_ms <= self._sent_ms or not self._chosen:
            return None
        self._sent_ms = newest_ms
        tally = self._tally
        values = np.array(
            [
                *(getattr(tally, result) for result in RESULTS),
                tally.retried,
                tally.bytes,
                *(tally.statuses[status] for status in STATUSES),
                max(self._behind_ms.values()) / 1000,
                tally.ahead,
            ],
            np.float64,
        )
        times = np.array([newest_ms], np.int64)
        return Block(self._series_set, times, values[np.newaxis, self._chosen])
