"""The settings of a delivery, from the flags; makes drains and pushers for any store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from rondo_tools.errors import UsageError
from rondo_tools.prom.labels import sent_labels
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.drain import Drain
from rondo_tools.push.pusher import Pusher, Sender
from rondo_tools.push.self_metrics import SelfMetrics, Tally
from rondo_tools.selector import Selector
from rondo_tools.store.format.opened import OpenedStore
from rondo_tools.wakeup import Wakeup

STOP_WITHIN_S = 10.0  # after a stop signal; later no new request begins


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which samples are sent (`tier`, `wanted`, `max_age_ms`, the beginning), and with which labels."""

    job: str
    external: Mapping[str, str]
    tier: int
    wanted: Selector | None
    max_age_ms: int | None
    max_samples: int
    backfill: bool
    ignore_future: bool

    def drain(self, store: OpenedStore, cursor: Cursor) -> Drain:
        """The drain for a cursor. Raises UsageError or PushError if the cursor is for another delivery."""
        if self.tier >= len(store.tiers):
            tiers = f"0 to {len(store.tiers) - 1}"
            raise UsageError(f"--tier {self.tier}: the tiers of {store.path} are {tiers}")
        cursor.belongs_to(store.store_id, self.tier, "" if self.wanted is None else str(self.wanted))
        return self.drain_to_look(store)

    def drain_to_look(self, store: OpenedStore) -> Drain:
        """A drain for any cursor, to look at only."""
        return Drain(
            store.layout,
            store.tiers,
            lambda header: sent_labels(header, self.job, self.external),
            self.max_samples,
            wanted=self.wanted,
            max_age_ms=self.max_age_ms,
            ignore_future=self.ignore_future,
        )

    def pusher(
        self,
        sender: Sender,
        tally: Tally,
        health: SelfMetrics | None,
        wake: Wakeup | None,
        store: OpenedStore,
        cursor: Cursor,
    ) -> Pusher:
        """A pusher; with `wake`, one that stops after a stop signal."""
        make = partial(
            Pusher, self.drain(store, cursor), cursor, sender, tally, backfill=self.backfill, health=health
        )
        if wake is None:
            return make()
        return make(pause=wake.pause, give_up=partial(wake.stopped_for, STOP_WITHIN_S))
