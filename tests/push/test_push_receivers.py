"""The answers of each real receiver, measured, and what rondo-push does with them.

The table of docs/remote-write.md has what a receiver does with a sample; its columns are families of
versions. Each case is one request with that sample and a good sample of another series.
"""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import snappy

from devtools.receivers.receiver import HOUR_MS, Key
from devtools.receivers.victoria import VictoriaMetrics, VmAgent
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.proto.remote_write_v2_pb2 import Metadata, Request
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push.encoding.body import HEADERS
from tests.push.test_push_victoria import tally
from tests.support.needs import PATIENCE_S
from tests.support.push.faults import FaultProxy
from tests.support.push.receivers import expected, fill, header, seconds
from tests.support.real_receivers import ONCE, RECEIVERS, Real, of_all_suites, real, version

ROOT = Path(__file__).resolve().parents[2]
NOW = int(time.time()) * 1000  # anew for each test
DAY_MS = 24 * HOUR_MS
pytestmark = pytest.mark.usefixtures("now")

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


class Given(NamedTuple):
    """A sample: its time before NOW and its series' labels without the job; the series' earlier samples."""

    ago_ms: int
    value: float = 3.0
    labels: tuple[tuple[str, str], ...] = (("__name__", "m"),)
    before: tuple[tuple[int, float], ...] = ()
    protocol: str = ""  # of this request, whatever that of the others is


TWO = ((120_000, 1.0), (100_000, 2.0))
# In this order: a sample ahead of the clock makes all others too old for old versions of Prometheus.
CASES = {
    "later than the series' newest": Given(90_000, before=TWO),
    "at the newest's time, with its value": Given(100_000, 2.0, before=TWO),
    "at an older one's time, with its value": Given(120_000, 1.0, before=TWO),
    "at the newest's time, with another value": Given(100_000, before=TWO),
    "between two others": Given(110_000, before=TWO),
    "two hours behind the newest of any series": Given(2 * HOUR_MS),
    "40 days old": Given(40 * DAY_MS),
    "in a request of remote-write 2.0": Given(90_000, protocol="2.0"),
    "with a label `a-b`": Given(90_000, labels=(("__name__", "m"), ("a-b", "1"))),
    "with a metric name `a b`": Given(90_000, labels=(("__name__", "a b"),)),
    "without a metric name": Given(90_000, labels=()),
    "with a label twice": Given(90_000, labels=(("__name__", "m"), ("a", "1"), ("a", "2"))),
    "a day ahead of the clock": Given(-DAY_MS),
}


def test_the_table_has_each_case() -> None:
    assert all(list(column) == list(CASES) for column in table().values())


@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
@pytest.mark.parametrize("name", RECEIVERS)
def test_each_answers_as_documented(program: Callable[[str], Path], name: str, protocol: str) -> None:
    path = program(name)
    documented = column_of(name, protocol)
    if documented is None:
        pytest.skip("it does not support 2.0, as its answer to a request of 2.0 shows")
    with real(name, path) as receiver:
        answers = {case: answer(receiver, case, given, protocol) for case, given in CASES.items()}
        # VictoriaMetrics shows samples of another day than today late, but at once after a start.
        receiver.stop()
        receiver.start()
        measured = {case: outcome(receiver, case, given, answers[case]) for case, given in CASES.items()}
    assert measured == documented


def table() -> dict[str, dict[str, str]]:
    """What each receiver does in each case, by the head of its column."""
    text = (ROOT / "docs" / "remote-write.md").read_text().partition("\n### What each answers\n")[2]
    (lines,) = re.findall(r"^(\| a sample \|.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines())
    return {name: {row[0]: row[at] for row in rows} for at, name in enumerate(head) if at}


def column_of(name: str, protocol: str) -> dict[str, str] | None:
    """The column of the receiver's fetched version; None if there is none for the protocol."""
    kind = "Prometheus" if name.startswith("prometheus") else "VictoriaMetrics"
    suffix = ", by 2.0" if protocol == "2.0" else ""
    major, minor = version(name)
    columns = table()
    heads = (f"{kind} {major}.{minor}{suffix}", f"{kind} {major}{suffix}", f"{kind}{suffix}")
    found = [columns[head] for head in heads if head in columns]
    assert found or protocol == "2.0", f"no column for {heads[0]}"
    return found[0] if found else None


GOOD = ("good", "1")


def answer(receiver: Real, case: str, given: Given, protocol: str) -> int:
    """The status for a request with a case's sample and a good one of another series."""
    job = ("job", case)
    series = (*given.labels, job)
    for ago_ms, value in given.before:
        assert send(receiver, protocol, (series, NOW - ago_ms, value)) == 204
    good = ((("__name__", "m"), GOOD, job), NOW - 90_000, 1.0)
    return send(receiver, given.protocol or protocol, good, (series, NOW - given.ago_ms, given.value))


def outcome(receiver: Real, case: str, given: Given, status: int) -> str:
    """What happened to them, in the table's words."""
    held = receiver.samples(f'{{job="{case}"}}', (NOW + 4 * DAY_MS) / 1000)
    pairs = [pair for labels, found in held.items() if GOOD not in labels for pair in found]
    is_there = (NOW - given.ago_ms, given.value) in [(t_ms, float(value)) for t_ms, value in pairs]
    has_good = any(GOOD in labels for labels in held)
    if status == 204:
        return ("taken" if is_there else "dropped") if has_good else "dropped whole"
    # An exact duplicate is stored in any case.
    assert is_there <= ((given.ago_ms, given.value) in given.before)
    return f"{status} alone" if has_good else f"{status}"


def send(receiver: Real, protocol: str, *samples: tuple[Key, int, float]) -> int:
    """Post a request; the status of the answer."""
    message = request_v1(*samples) if protocol == "1.0" else request_v2(*samples)
    body, headers = snappy.compress(message.SerializeToString()), {"User-Agent": "test", **HEADERS[protocol]}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(receiver.write_url, body, headers), timeout=PATIENCE_S
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def request_v1(*samples: tuple[Key, int, float]) -> WriteRequest:
    request = WriteRequest()
    for labels, t_ms, value in samples:
        series = request.timeseries.add()
        for name, text in sorted(labels):
            series.labels.add(name=name, value=text)
        series.samples.add(timestamp=t_ms, value=value)
    return request


def request_v2(*samples: tuple[Key, int, float]) -> Request:
    texts = sorted({text for labels, _, _ in samples for pair in labels for text in pair})
    request = Request(symbols=["", *texts])
    for labels, t_ms, value in samples:
        series = request.timeseries.add()
        series.labels_refs.extend(texts.index(text) + 1 for pair in sorted(labels) for text in pair)
        series.samples.add(timestamp=t_ms, value=value)
        series.metadata.type = Metadata.METRIC_TYPE_GAUGE
    return request


@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
@pytest.mark.parametrize("name", RECEIVERS)
def test_a_refusal_costs_only_the_refused_samples(
    run: Run, tmp_path: Path, program: Callable[[str], Path], name: str, protocol: str
) -> None:
    """Another writer has newer samples of one of three instances; a fourth is too old. The rest arrives."""
    foreign, store = tmp_path / "foreign", tmp_path / "store"
    fill(foreign, header("late", NOW - 1000), seconds(1, NOW - 1000))
    for instance in ("a", "b", "late"):
        fill(store, header(instance, NOW - 60_000), seconds(20, NOW - 59_000), "poweroff")
    fill(store, header("old", NOW - 3 * HOUR_MS), seconds(5, NOW - 3 * HOUR_MS), "poweroff")
    with real(name, program(name)) as receiver:
        push = ("--remote-write", receiver.write_url, "--protocol", protocol, "--no-health", "-v")
        assert run("rondo-push", foreign, *push).returncode == 0
        done = run("rondo-push", store, *push, "--backfill")
        shown = receiver.samples('{job="rondo-vmm"}')
        is_spoken = column_of(name, "2.0") is not None
    assert done.returncode == 0, done.stderr
    assert (b"does not support remote-write 2.0" in done.stderr) == (protocol == "2.0" and not is_spoken)
    refuses = name.startswith("prometheus")
    refused = (21 + 6) * 2 if refuses else 0  # with the markers at their ends
    sent, rejected, unclear = tally(done.stderr)
    assert (sent, rejected + unclear) == ((3 * 21 + 6) * 2 - refused, refused)
    # Its 204 to a request of 2.0 does not show whether it understood the samples.
    assert unclear == (6 * 2 if refuses and protocol == "2.0" and not is_spoken else 0)
    for labels, samples in expected(store).items():
        times = {t_ms for t_ms, value in samples.items() if value != STALE_NAN}
        if not refuses or dict(labels)["instance"] in ("a", "b"):
            assert times <= {t_ms for t_ms, _ in shown[labels]}


@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
@pytest.mark.parametrize("name", of_all_suites("vmagent"))
def test_vmagent_as_a_relay_loses_and_repeats_nothing(
    run: Run, tmp_path: Path, program: Callable[[str], Path], name: str, protocol: str
) -> None:
    fill(tmp_path, header("a", NOW - 60_000), seconds(30, NOW - 59_000), "poweroff")
    fill(tmp_path, header("b", NOW - 60_000), seconds(30, NOW - 58_500))
    with VictoriaMetrics(program(name.replace("vmagent", "victoria-metrics")), ONCE) as receiver:
        with (
            VmAgent(program(name), receiver.write_url) as relay,
            FaultProxy(relay.write_url) as proxy,
        ):
            proxy.follow(["lost answer", "ok", "500 after"])
            push = ("--remote-write", proxy.url, "--protocol", protocol, "--no-health")
            done = run("rondo-push", tmp_path, *push, "--max-samples-per-send", "30")
            assert done.returncode == 0, done.stderr
        shown = receiver.samples('{job="rondo-vmm"}')
    assert {labels: [t_ms for t_ms, _ in pairs] for labels, pairs in shown.items()} == {
        labels: [t_ms for t_ms, value in sorted(samples.items()) if value != STALE_NAN]
        for labels, samples in expected(tmp_path).items()
    }
