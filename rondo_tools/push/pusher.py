"""One push of one store: what is in flight first, then batch after batch. All policy is here.

Strategy: cursor, send, cursor. Before a batch is sent the cursor says what is in flight; after it
is settled, what was delivered. What fails for now is tried again three times, then left in flight
for the next push, or the next process. Only after a batch is settled does the next one go.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from rondo_tools.catalog import Series
from rondo_tools.errors import EX_DATAERR, EX_UNAVAILABLE, PushError
from rondo_tools.push.cursor import Cursor, InFlight
from rondo_tools.push.dead_letters import DeadLetters
from rondo_tools.push.drain import Drain
from rondo_tools.push.encoding.body import V1, Body, encode
from rondo_tools.push.http.transport import Answer, Outcome
from rondo_tools.push.model import Batch
from rondo_tools.push.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.push.reconcile import EVERY_SERIES, Refusal, Settlement
from rondo_tools.push.self_metrics import SelfMetrics, Tally

RETRIES = 3
BACKOFF_S = 0.1  # doubling
MAX_RETRY_AFTER_S = 60.0  # a longer pause than this is left to the next push

HOUR_MS = 3_600_000  # what Prometheus bears, by default, behind its newest sample
# Of a session that is gone: a store put back from a backup gets its last 600 ticks again, ten seconds
# apart perhaps, from a producer that is still there.
REMEMBERED_MS = 2 * HOUR_MS
_SHOWN_REFUSALS = 5  # of one batch, in the log

log = logging.getLogger(__name__)


class Sender(Protocol):
    """What the loop needs of a transport: one attempt, and the protocol to make bodies in."""

    protocol: str

    def send(self, body: Body) -> Answer: ...


class NotTakenError(PushError):
    """The endpoint does not take a batch, for now or before somebody changes something.

    `unclear` if the batch may have landed all the same; `retry_after_s` is the pause that the
    server asked for, or 0.
    """

    def __init__(
        self, message: str, *, unclear: bool, retry_after_s: float = 0.0, exit_code: int | None = None
    ) -> None:
        super().__init__(message, exit_code=exit_code)
        self.unclear = unclear
        self.retry_after_s = retry_after_s


def _count(request: WriteRequest) -> int:
    return sum(len(series.samples) for series in request.timeseries)


def _body(in_flight: InFlight) -> Body:
    return Body(in_flight.body, in_flight.protocol)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


class Pusher:
    """Delivers one store through one cursor.

    `pause(seconds)` waits and says whether to go on; `give_up()` says, before each request,
    whether to stop; `now_ms` is the clock that says which slots are closed. `backfill` owes the
    coarser tiers' rows from before delivery began, too. `health` is told after each push that
    delivered something.
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
        self._backfill = backfill
        self._health = health
        self._rejected = DeadLetters(cursor.path.parent, cursor.name)
        self._too_old_ms = 0  # up to here this push was refused everything, for its age
        self._old_ms = 0
        self._described: set[str] = set()  # metric families whose metadata this process has sent

    def push(self, closed: Mapping[str, int] | None = None) -> None:
        """Deliver all that is new and closed (`closed` as in `Drain.batches`).

        Raises NotTakenError (exit status 75, or 69 where trying again will not help) if the
        endpoint does not take it: then nothing of the batch counts as delivered, and it stays in
        flight if it may have landed all the same.
        """
        changed = False
        now_ms = self._now_ms()
        self._too_old_ms, self._old_ms = 0, now_ms - HOUR_MS
        if self._cursor.in_flight is not None:
            self._settle_what_was_left(self._cursor.in_flight)
        if self._backfill:
            self._cursor.begun_ms = 0
        elif self._cursor.begun_ms is None:
            self._cursor.begun_ms = self._drain.begin_ms(now_ms)
        oldest_ms, newest_ms = now_ms, 0  # of what is sent
        before_ms = max((mark.delivered_ms for mark in self._cursor.marks().values()), default=0)
        for batch in self._drain.batches(self._cursor.marks(), now_ms, closed, self._cursor.begun_ms):
            if batch.blocks and max(int(block.t_ms[-1]) for block in batch.blocks) <= self._too_old_ms:
                self._leave_out(batch)
                changed = True
            elif batch.blocks:
                self._send(batch)
                oldest_ms = min(oldest_ms, *(int(block.t_ms[0]) for block in batch.blocks))
                newest_ms = max(newest_ms, *(int(block.t_ms[-1]) for block in batch.blocks))
                changed = False
            else:
                self._cursor.advance(batch.marks)
                changed = True
            self._tally.passed_over += batch.passed_over
        marks, remembered_ms = self._cursor.marks(), now_ms - REMEMBERED_MS
        gone = [key for key in self._drain.gone(marks) if marks[key].delivered_ms < remembered_ms]
        self._cursor.forget(gone)
        if changed or gone:
            self._cursor.save()
        if self._health is not None and newest_ms > before_ms:
            self._tell(self._health, newest_ms, now_ms - oldest_ms)

    def _tell(self, health: SelfMetrics, newest_ms: int, behind_ms: int) -> None:
        """Send our own health, once, whatever comes of it: nothing that matters depends on it."""
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
            log.debug("our own health was not taken: %s", answer.text)

    def _send(self, batch: Batch) -> None:
        families = self._families(batch)
        body = encode(self._sender.protocol, batch.blocks, families.values())
        self._cursor.in_flight = InFlight(batch.marks, body.data, protocol=body.protocol)
        self._cursor.save()
        try:
            answer, unclear = self._attempts(body, batch.samples)
        except NotTakenError as exc:
            if not exc.unclear:
                # It never got there: the next push may make the batch anew, with other labels too.
                self._cursor.in_flight = None
                self._cursor.save()
            raise
        self._conclude(self._cursor.in_flight, answer, unclear, batch.samples)
        if body.protocol == V1:
            self._described.update(families)

    def _leave_out(self, batch: Batch) -> None:
        """Pass over a batch of which all is as old as what this push was refused for its age."""
        self._tally.rejected += batch.samples
        self._cursor.advance(batch.marks)
        times = [int(t) for block in batch.blocks for t in (block.t_ms[0], block.t_ms[-1])]
        refusal = Refusal(
            "not sent: too old, as others of that time were", min(times), max(times), batch.samples
        )
        self._note({EVERY_SERIES: refusal}, unclear=False)

    def _note(self, refusals: Mapping[str, Refusal], *, unclear: bool) -> None:
        at_ms = self._now_ms()
        self._rejected.add(
            {
                "at_ms": at_ms,
                "series": series,
                "from_ms": refusal.t_ms,
                "through_ms": refusal.through_ms,
                "samples": refusal.samples,
                "unclear": unclear,
                "answer": refusal.words,
            }
            for series, refusal in refusals.items()
        )

    def _families(self, batch: Batch) -> dict[str, Series]:
        """Metric families in the batch that were not described yet, each as it is first met."""
        families: dict[str, Series] = {}
        for block in batch.blocks:
            for series in block.series_set.series:
                if series.name not in self._described:
                    families.setdefault(series.name, series)
        return families

    def _settle_what_was_left(self, in_flight: InFlight) -> None:
        body = _body(in_flight)
        try:
            request = body.request()
        except ValueError as exc:
            raise PushError(
                f"{self._cursor.path}: the batch in flight is damaged: {exc}", exit_code=EX_DATAERR
            ) from exc
        samples = _count(request)
        log.debug("a batch of %d samples was left in flight: it is sent again first", samples)
        answer, _ = self._attempts(body, samples)
        self._conclude(in_flight, answer, True, samples)

    def _conclude(self, in_flight: InFlight, answer: Answer, unclear: bool, samples: int) -> None:
        """Settle the batch as far as it takes, then say in the cursor that it is delivered."""
        if answer.outcome is Outcome.ACCEPTED:
            self._tally.sent += samples
        else:
            # From here on it may land in part: who settles it again has to know.
            self._cursor.in_flight = in_flight._replace(split=True)
            self._cursor.save()
            self._carry_out(Settlement(unclear, self._old_ms), in_flight, answer)
        self._cursor.advance(in_flight.marks)
        self._cursor.in_flight = None
        self._cursor.save()

    def _carry_out(self, settlement: Settlement, in_flight: InFlight, answer: Answer) -> None:
        whole = _body(in_flight)
        plan = settlement.plan(whole.request(), answer, split=in_flight.split)
        try:
            piece = next(plan)
            while True:
                answer, unclear = self._attempts(whole.select(piece), _count(piece))
                settlement.unclear |= unclear
                piece = plan.send(answer)
        except StopIteration:
            pass
        self._tally.sent += settlement.sent
        self._tally.rejected += settlement.rejected
        self._tally.unclear += settlement.not_known
        self._note(settlement.refusals, unclear=settlement.unclear)
        if settlement.too_old_ms and not self._too_old_ms:
            log.warning(
                "the endpoint refuses samples over an hour old; Prometheus takes them with "
                "storage.tsdb.out_of_order_time_window in its configuration"
            )
        self._too_old_ms = max(self._too_old_ms, settlement.too_old_ms)
        shown = list(settlement.refusals.items())[:_SHOWN_REFUSALS]
        for series, refusal in shown:
            log.warning(
                "passed over %d samples of %s from %d ms on: %s",
                refusal.samples,
                series,
                refusal.t_ms,
                refusal.words,
            )
        if len(settlement.refusals) > len(shown):
            log.warning("... and samples of %d series more", len(settlement.refusals) - len(shown))

    def _attempts(self, body: Body, samples: int) -> tuple[Answer, bool]:
        """Send the body until the answer is final; say also whether an earlier try may have landed."""
        unclear = False
        attempt = 0
        while True:
            if self._give_up():
                raise NotTakenError("told to stop before all was delivered", unclear=unclear)
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
