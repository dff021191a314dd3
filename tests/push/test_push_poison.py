"""Refusals by stubs, with the limits of receivers that are not available as packages.

Real refusals: of Prometheus in test_push_exactly_once.py (a series that is ahead already) and in
test_push_outage.py (samples over an hour old), of VictoriaMetrics in test_push_victoria.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from devtools.receivers.receiver import HOUR_MS, Key, Receiver
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.store.folder import Folder
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.keeper import Keeper
from tests.support.push.receivers import T0, Scripted, expected, fill, header, push_once, seconds


def long_label(labels: Key, _t_ms: int) -> str | None:
    """The limit of Mimir and Cortex, as a stub: Debian has neither."""
    return "label value too long" if any(len(value) > 500 for _, value in labels) else None


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, but not the machine: syncs of thousands of saves are not needed."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three VMs, of which one has a label that is too long."""
    for name in ("a", "b", "c"):
        head = header(name)
        if name == "b":
            head = head._replace(labels=(("zone", "z" * 600),))
        fill(tmp_path, head, seconds(4), "poweroff")
    return tmp_path


def test_a_label_over_the_limit_costs_its_own_series_only(store: Path) -> None:
    receiver = Receiver(long_label)
    found = push_once(store, Scripted(receiver), now_ms=T0 + HOUR_MS)
    assert (found.sent, found.rejected) == (2 * 5 * 2, 5 * 2)
    assert receiver.samples == {
        labels: samples for labels, samples in expected(store).items() if not long_label(labels, 0)
    }
    lines = (store / "rejected_prometheus.jsonl").read_text().splitlines()
    assert {json.loads(line)["answer"] for line in lines} == {"label value too long"}


@pytest.mark.heavy
def test_one_metric_refused_of_many_vms(tmp_path: Path) -> None:
    """625 VMs, a tick each: no number of refusals drops a good sample."""
    receiver = Receiver(lambda labels, t_ms: "no heat" if ("__name__", "heat") in labels else None)
    with Keeper(Folder(tmp_path, parse_tiers("1s:10m")), now_ms=lambda: T0 + HOUR_MS) as keeper:
        for number in range(625):
            keeper.append(keeper.begin(header(f"vm-{number}")), *seconds(1)[0])
    sender = Scripted(receiver)
    found = push_once(tmp_path, sender, now_ms=T0 + 60_000)
    assert (found.sent, found.rejected, found.unclear) == (625, 625, 0)
    assert sender.attempts < 5 * 625
    assert len(receiver.samples) == 625


class CommitsTheGood(Receiver):
    """Commits the good samples of a request and answers 400 for the rest, like Mimir's distributor."""

    def take_request(self, request: WriteRequest) -> str | None:
        words = None
        for series in request.timeseries:
            for sample in series.samples:
                one = WriteRequest()
                one.timeseries.add(labels=series.labels, samples=[sample])
                words = super().take_request(one) or words
        return words


def test_a_receiver_that_commits_a_part_and_refuses_the_rest_gets_all_good_samples(store: Path) -> None:
    """And each once; but a sample that it wrote first and refuses the second time counts as refused."""
    receiver = CommitsTheGood(long_label)
    found = push_once(store, Scripted(receiver), now_ms=T0 + HOUR_MS)
    assert receiver.samples == {
        labels: samples for labels, samples in expected(store).items() if not long_label(labels, 0)
    }
    assert found.sent + found.rejected == 3 * 5 * 2
    assert found.rejected > 5 * 2
