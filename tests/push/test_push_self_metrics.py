"""rondo-push's own metrics: true counts, in a separate request, on which nothing depends."""

from __future__ import annotations

import http.server
import json
import struct
import time
from pathlib import Path

import pytest

from devtools.http_server import Reply, http_server
from devtools.receivers.receiver import HOUR_MS, OWN, Receiver, Samples
from rondo_tools.push.self_metrics import RESULTS, SERIES, STATUSES, SelfMetrics, Tally
from rondo_tools.selector import parse_selector
from tests.support.fixtures import Run
from tests.support.push.receivers import T0, Crash, Scripted, expected, fill, header, push_once, seconds

NOW = int(time.time()) * 1000  # anew for each test
pytestmark = pytest.mark.usefixtures("now")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(tmp_path, header("a"), seconds(10))
    fill(tmp_path, header("b"), seconds(5), "poweroff")
    return tmp_path


def newest(health: Samples) -> dict[str, float]:
    """The last value of each series, by its name and the label that distinguishes it."""
    found = {}
    for labels, samples in health.items():
        named = dict(labels)
        name = named["__name__"] + "".join(f"/{named[k]}" for k in ("result", "status") if k in named)
        found[name] = struct.unpack("<d", struct.pack("<Q", samples[max(samples)]))[0]
    return found


def test_the_metrics_have_the_results_of_the_push(store: Path) -> None:
    """A push of 10 rows and 6 of two series, in three requests; one answer is lost, and refused samples
    count as refused."""
    receiver = Receiver(lambda labels, t_ms: "no" if ("__name__", "heat") in labels else None)
    tally = push_once(store, Scripted(receiver, ["refused"]), with_health=True)
    values = newest(receiver.health)
    assert len(values) == len(SERIES) == len(RESULTS) + len(STATUSES) + 4
    assert {name: values[f"push_samples_total/{name}"] for name in RESULTS} == {
        "sent": 16, "rejected": 16, "unclear": 0, "passed_over": 0,
    }  # fmt: skip
    requests = {status: values[f"push_requests_total/{status}"] for status in STATUSES}
    refused = requests["4xx"]
    assert requests == {"2xx": tally.requests - refused - 1, "3xx": 0, "4xx": refused, "5xx": 0, "none": 1}
    assert refused > 0
    assert values["push_samples_retried_total"] == 32
    assert values["push_bytes_total"] == tally.bytes > 0
    assert values["push_behind_seconds"] == HOUR_MS / 1000  # now_ms of these pushes is an hour later


def test_the_metrics_come_last_and_are_described_once(store: Path) -> None:
    receiver = Receiver()
    tally = push_once(store, Scripted(receiver), max_samples=8, with_health=True)
    *others, last = receiver.requests
    assert (tally.requests, tally.sent) == (len(others), 32)
    assert all(
        OWN not in [(label.name, label.value) for label in s.labels] for r in others for s in r.timeseries
    )
    assert len(last.timeseries) == len(SERIES)
    assert {item.metric_family_name for item in last.metadata} == {series.name for series in SERIES}
    assert receiver.samples == expected(store, with_ends=True)


def test_their_time_is_the_stores_so_that_no_sample_is_shut_out(store: Path) -> None:
    """The clock is ten hours ahead; the next rows are a second later, and the receiver accepts an hour."""
    receiver = Receiver()
    push_once(store, Scripted(receiver), now_ms=T0 + 10 * HOUR_MS, with_health=True)
    assert {t_ms for samples in receiver.health.values() for t_ms in samples} == {T0 + 9000}
    fill(store, header("a"), seconds(3, T0 + 10_000))
    tally = push_once(store, Scripted(receiver), now_ms=T0 + 10 * HOUR_MS, with_health=True)
    assert (tally.sent, tally.rejected) == (6, 0)
    assert {max(samples) for samples in receiver.health.values()} == {T0 + 12_000}


def test_a_push_with_nothing_new_sends_no_metrics(store: Path) -> None:
    receiver = Receiver()
    push_once(store, Scripted(receiver), with_health=True)
    count = len(receiver.requests)
    push_once(store, Scripted(receiver), with_health=True)
    # New samples that are not past the newest delivered one do not advance our time either.
    fill(store, header("c", T0 - 500), seconds(3), "poweroff")
    assert push_once(store, Scripted(receiver), with_health=True).sent == 8
    assert len(receiver.requests) == count + 1


@pytest.mark.parametrize("fault", ["refused", "lost", "unanswered", "crash", "crash-after"])
def test_delivery_does_not_depend_on_the_metrics(store: Path, fault: str) -> None:
    """They have one attempt; with any result, the store is delivered and the cursor has the progress."""
    receiver = Receiver()
    sender = Scripted(receiver, ["ok", fault])
    try:
        push_once(store, sender, with_health=True)
    except Crash:
        pass
    assert sender.attempts == 2
    assert receiver.samples == expected(store)
    assert json.loads((store / "cursor_prometheus.json").read_text())["in_flight"] is None
    assert push_once(store, Scripted(receiver), with_health=True).requests == 0


def test_refused_metrics_are_not_refused_samples(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver(lambda labels, t_ms: "too many series" if OWN in labels else None)
    tally = push_once(store, Scripted(receiver), with_health=True)
    assert (tally.sent, tally.rejected, tally.requests) == (32, 0, 1)
    assert not caplog.records
    assert not list(store.glob("rejected_*"))


def test_a_selector_selects_from_the_metrics_too() -> None:
    tally = Tally(sent=7)

    def chosen(text: str) -> list[str] | None:
        block = SelfMetrics(tally, "lab", "j", {"host": "h"}, parse_selector(text)).block(Path("x"), T0, 2500)
        return block and [str(series) for series in block.series_set.series]

    assert chosen('push_samples_total{result="sent"}') == ['push_samples_total{result="sent"}']
    assert chosen('push_behind_seconds{instance="rondo-push"}') == ["push_behind_seconds"]
    assert chosen("vcpu_exits_total") is None


def test_of_several_stores_the_slowest_counts_and_time_ascends() -> None:
    health = SelfMetrics(Tally(), "lab", "j", {"host": "h"}, parse_selector("push_behind_seconds"))
    first = health.block(Path("one"), T0, 9000)
    second = health.block(Path("two"), T0 + 1, 1500)
    assert first is not None
    assert second is not None
    assert (first.values.tolist(), second.values.tolist()) == ([[9.0]], [[9.0]])
    assert dict(first.series_set.labels[0]).items() >= {("cursor", "lab"), ("host", "h"), ("job", "j"), OWN}
    assert health.block(Path("one"), T0 + 1, 0) is None


def test_the_program_sends_the_metrics_without_no_health(run: Run, tmp_path: Path) -> None:
    receiver = Receiver()

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        return (204, {}, b"") if receiver.take(body) is None else (400, {}, b"")

    fill(tmp_path, header("a", NOW - 20_000), seconds(5, NOW - 20_000))
    with http_server(answer) as url:
        flags: list[str | Path] = [tmp_path, "--remote-write", url]
        assert run("rondo-push", *flags).returncode == 0
        assert newest(receiver.health)["push_requests_total/2xx"] == 1
        fill(tmp_path, header("a", NOW - 20_000), seconds(3, NOW - 15_000))
        assert run("rondo-push", *flags, "--no-health").returncode == 0
    assert receiver.samples == expected(tmp_path)
    assert len(receiver.requests) == 3
