"""One push of one store: first the batch in flight, then batch after batch. All policy is here.

Strategy: save the cursor, send, save the cursor. A stretch of the journal is frozen and synced to the disk
before it is sent, batch after batch, slice by slice. Before each request the cursor saves the batch in
flight, and after the batch is settled, the progress. If the first save fails, nothing is sent. A request
that fails temporarily is repeated three times; then the batch stays in flight, and the next push or
process continues there. The next batch goes only after this one is settled.

While a series is refused sample by sample, perhaps thousands of times, the file is replaced only every
100 ms. That is safe: a process that continues from an earlier sample of the series is refused the same
samples again, and gets to the same result.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from rondo_tools.catalog import Series
from rondo_tools.errors import EX_UNAVAILABLE, PushError
from rondo_tools.push.cursor import Cursor, InFlight
from rondo_tools.push.dead_letters import DeadLetters, Report
from rondo_tools.push.drain import Drain
from rondo_tools.push.encoding import V1
from rondo_tools.push.encoding.body import Body, encode, encode_bounded
from rondo_tools.push.model import Answer, Batch, Outcome
from rondo_tools.push.piece import Piece
from rondo_tools.push.reconcile import Reconciliation
from rondo_tools.push.self_metrics import SelfMetrics, Tally
from rondo_tools.push.split import count
from rondo_tools.push.stretch import Stretch

RETRIES = 3
BACKOFF_S = 0.1  # doubling
STEP_S = 0.1  # greatest age of the cursor's file while a series goes sample by sample
MAX_RETRY_AFTER_S = 60.0  # after a longer pause the next push tries again

HOUR_MS = 3_600_000  # Prometheus' default limit of a sample's age, behind its newest sample

log = logging.getLogger(__name__)


class Sender(Protocol):
    """The part of a transport that the pusher needs: one attempt, and the protocol of new bodies."""

    protocol: str

    def send(self, body: Body) -> Answer: ...


class NotTakenError(PushError):
    """The endpoint does not take a batch, for now or until somebody changes the configuration.

    `unclear` if the batch may still have arrived; `retry_after_s` is the pause that the server asked
    for, or 0.
    """

    def __init__(
        self, message: str, *, unclear: bool, retry_after_s: float = 0.0, exit_code: int | None = None
    ) -> None:
        super().__init__(message, exit_code=exit_code)
        self.unclear = unclear
        self.retry_after_s = retry_after_s


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


class Pusher:
    """Delivers one store through one cursor.

    `pause(seconds)` waits and returns whether to continue; `give_up()` returns, before each request, whether
    to stop; `now_ms` is the wall clock. With `backfill`, a first delivery begins with everything in the
    store. `health` is sent after each push that delivered something.
    """

    def __init__(
        self,
        drain: Drain,
        cursor: Cursor,
        sender: Sender,
        tally: Tally,
        *,
        pause: Callable[[float], bool] = _sleep,
        give_up: Callable[[], bool] = lambda: False,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        backfill: bool = False,
        health: SelfMetrics | None = None,
    ) -> None:
        self._drain = drain
        self._cursor = cursor
        self._sender = sender
        self._tally = tally
        self._pause = pause
        self._give_up = give_up
        self._now_ms = now_ms
        self._jitter = jitter
        self._clock = clock
        self._next_step_s = 0.0
        self._backfill = backfill
        self._health = health
        self._dead_letters = DeadLetters(cursor.path.parent, cursor.name)
        self._too_old_ms = 0  # up to this time the endpoint refused everything in this push for its age
        self._old_ms = 0
        self._oldest_ms = self._newest_ms = 0  # of the samples sent in this push
        self._has_warned_of_age = False  # in this push
        self._described: set[str] = set()  # metric families whose metadata this process has sent

    def push(self) -> bool:
        """Deliver everything that is new at the beginning; returns whether there was anything.

        Newer ticks are left to the next push: otherwise producers that never pause would keep this one
        running for ever, with a request for every few ticks. Raises NotTakenError (exit status 75, or 69
        if a repetition does not help) if the endpoint does not take a batch: then nothing of it counts as
        delivered, and it stays in flight if it may still have arrived.
        """
        sent = self._tally.sent
        now_ms = self._now_ms()
        self._too_old_ms, self._old_ms, self._has_warned_of_age = 0, now_ms - HOUR_MS, False
        progress = self._cursor.progress
        self._cursor.touch()
        if not self._cursor.is_saved:
            self._cursor.save()
        if self._cursor.in_flight is not None:
            log.debug("settling the batch in flight first")
            self._deliver(*self._cursor.in_flight)
        before_ms = progress.time_ms
        self._oldest_ms, self._newest_ms = now_ms, 0
        reaches_newest = False
        while not reaches_newest:
            is_left_over = progress.end is not None
            stretch = self._drain.next(progress, now_ms, backfill=self._backfill)
            if stretch is None:
                break
            reaches_newest = not is_left_over and progress.coarse is None
            with stretch:
                self._send_stretch(stretch, now_ms)
        if self._health is not None and self._newest_ms > before_ms:
            self._send_health(self._health, self._newest_ms, now_ms - self._oldest_ms)
        return self._tally.sent > sent

    def _send_stretch(self, stretch: Stretch, now_ms: int) -> None:
        """Deliver the rest of a stretch."""
        progress = self._cursor.progress
        self._drain.sync(progress)
        batches = self._drain.batches(stretch, progress)
        while progress.slice < stretch.slices:
            one = stretch.slice(progress.slice)
            if not progress.done:
                self._tally.passed_over += one.passed_over
            for batch in batches.of(one, progress.done, self._drain.oldest_ms(now_ms)):
                if batch.blocks:
                    self._send(batch)
                    self._oldest_ms = min(self._oldest_ms, *(int(block.t_ms[0]) for block in batch.blocks))
                    self._newest_ms = max(self._newest_ms, *(int(block.t_ms[-1]) for block in batch.blocks))
                else:
                    progress.done = batch.end
                self._tally.passed_over += batch.passed_over
            progress.finish_slice(int(one.t_ms.max(initial=0)))
        self._tally.ahead = self._drain.finish(progress, stretch, now_ms)
        self._cursor.save()

    def _send_health(self, health: SelfMetrics, newest_ms: int, behind_ms: int) -> None:
        """Send our own metrics once. A failure is only logged: delivery does not depend on them."""
        block = health.block(self._cursor.path.parent, newest_ms, behind_ms)
        if block is None or self._give_up():
            return
        families = {
            series.name: series for series in block.series_set.series if series.name not in self._described
        }
        body = encode(self._sender.protocol, [block], families.values())
        answer = self._sender.send(body)
        if answer.outcome is Outcome.ACCEPTED and body.protocol == V1:
            self._described.update(families)
        elif answer.outcome is not Outcome.ACCEPTED:
            log.debug("our own metrics were not accepted: %s", answer.text)

    def _send(self, batch: Batch) -> None:
        families = self._families(batch)
        bodies = encode_bounded(self._sender.protocol, batch.blocks, families.values())
        pieces = [Piece(body, is_fresh=True) for body in bodies]
        self._deliver(batch.end, pieces, batch.samples if len(bodies) == 1 else 0)
        if bodies[0].protocol == V1:
            self._described.update(families)

    def _families(self, batch: Batch) -> dict[str, Series]:
        """The batch's metric families without sent metadata, with the first series of each."""
        families: dict[str, Series] = {}
        for block in batch.blocks:
            for series in block.series_set.series:
                if series.name not in self._described:
                    families.setdefault(series.name, series)
        return families

    def _deliver(self, rows: int, pieces: Sequence[Piece], samples: int = 0) -> None:
        """Settle a batch, or the rest of one: then `rows` of the slice are done.

        `samples` is the number of samples in its first request, or 0 if it is not known.
        """
        work = Reconciliation(pieces, old_ms=self._old_ms, too_old_ms=self._too_old_ms)
        report = Report(self._dead_letters, self._now_ms)
        unsent = self._cursor.in_flight  # for the cursor if the request does not arrive
        try:
            while (body := work.next()) is not None:
                self._announce(InFlight(rows, work.in_flight()), unsent, is_step=work.is_step)
                try:
                    self._ask(body, samples or count(body.request()), work)
                except NotTakenError as exc:
                    if not exc.unclear:
                        self._cursor.in_flight, self._cursor.is_saved = unsent, False
                    if not self._cursor.is_saved:
                        with suppress(PushError):
                            self._cursor.save()
                    raise
                self._account(work, report)
                unsent, samples = InFlight(rows, tuple(work.pieces)), 0
        finally:
            report.end()
        self._cursor.progress.done = rows
        self._cursor.in_flight = None
        self._cursor.save()

    def _announce(self, in_flight: InFlight, unsent: InFlight | None, *, is_step: bool) -> None:
        self._cursor.in_flight = in_flight
        if is_step:
            if self._clock() < self._next_step_s:
                self._cursor.is_saved = False
                return
            self._next_step_s = self._clock() + STEP_S
        try:
            self._cursor.save()
        except PushError:
            self._cursor.in_flight = unsent
            raise

    def _ask(self, body: Body, samples: int, work: Reconciliation) -> None:
        """Send a request, and reconcile its answer."""
        answer, unclear = self._attempts(body, samples)
        if unclear:
            work.lost()
        if answer.outcome is Outcome.ACCEPTED:
            work.accepted(samples, answer.written)
        elif answer.outcome is Outcome.TOO_LARGE:
            work.too_large(answer.text)
        else:
            work.refused(answer.text, answer.written)

    def _account(self, work: Reconciliation, report: Report) -> None:
        """Count and report the samples that the last answer settled."""
        self._tally.sent += work.sent
        work.sent = 0
        for refusal in work.refusals:
            self._tally.count_refused(refusal.result.value, refusal.samples)
            report.add(refusal)
        work.refusals.clear()
        self._too_old_ms = work.too_old_ms
        if work.is_too_old and not self._has_warned_of_age:
            self._has_warned_of_age = True
            log.warning(
                "the endpoint refuses samples over an hour old; Prometheus accepts them with "
                "storage.tsdb.out_of_order_time_window in its configuration"
            )

    def _attempts(self, body: Body, samples: int) -> tuple[Answer, bool]:
        """Send the body until the answer is final. Returns also whether an earlier one may have arrived."""
        unclear = False
        attempt = 0
        while True:
            if self._give_up():
                raise NotTakenError("stopped before everything was delivered", unclear=unclear)
            answer = self._sender.send(body)
            self._tally.count(answer.status, len(body.data))
            self._tally.retried += samples if attempt else 0
            if answer.outcome is Outcome.DENIED:
                raise NotTakenError(answer.text, unclear=unclear, exit_code=EX_UNAVAILABLE)
            if answer.outcome is not Outcome.RETRY:
                return answer, unclear
            unclear |= answer.unclear
            asked_s = answer.retry_after_s or 0.0
            wait_s = max(asked_s, BACKOFF_S * 2**attempt * (0.5 + self._jitter()))
            attempt += 1
            if attempt > RETRIES or asked_s > MAX_RETRY_AFTER_S or not self._pause(wait_s):
                raise NotTakenError(answer.text, unclear=unclear, retry_after_s=asked_s)
            log.debug("%s; trying again", answer.text)
