"""SIGINT, SIGTERM and SIGHUP through a descriptor."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from rondo_tools.signals import Signals

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def ready(signals: Signals) -> bool:
    return bool(select.select([signals.fileno()], [], [], 0)[0])


def test_signals_arrive_once_and_in_order() -> None:
    with Signals() as signals:
        assert not ready(signals)
        assert signals.take() == []
        for number in (INT, TERM, INT):
            os.kill(os.getpid(), number)
        assert ready(signals)
        assert signals.take() == [INT, TERM, INT]
        assert not ready(signals)
        assert signals.take() == []


def test_earlier_handlers_are_restored() -> None:
    before = signal.getsignal(INT), signal.getsignal(TERM)
    with Signals() as signals:
        fd = signals.fileno()
        assert signal.getsignal(INT) is not before[0]
    assert (signal.getsignal(INT), signal.getsignal(TERM)) == before
    assert signal.set_wakeup_fd(-1) == -1
    try:
        os.fstat(fd)
    except OSError:
        return
    raise AssertionError("the pipe is left open")


def test_a_flood_of_signals_is_harmless() -> None:
    """More signals than the pipe holds: the rest is lost, and nothing blocks."""
    with Signals() as signals:
        for _ in range(70_000):
            signal.raise_signal(TERM)
        seen = 0
        while taken := signals.take():
            assert set(taken) == {TERM}
            seen += len(taken)
        assert 0 < seen < 70_000
        signal.raise_signal(INT)
        assert signals.take() == [INT]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([HUP], [TERM]),
        ([HUP, HUP, HUP], [TERM]),  # of a terminal that closes: no second signal
        ([TERM, HUP], [TERM]),  # systemd's SendSIGHUP=
        ([INT, HUP], [INT, TERM]),
        ([HUP, TERM], [TERM, TERM]),
        ([HUP, INT], [TERM, INT]),
    ],
)
def test_the_first_hang_up_is_a_sigterm(sent: list[signal.Signals], expected: list[signal.Signals]) -> None:
    handled: list[int] = []
    with Signals(handler=lambda number, _: handled.append(number)) as signals:
        taken = []
        for number in sent:
            os.kill(os.getpid(), number)
            taken += signals.take()
    assert taken == expected
    assert handled == expected


@pytest.fixture
def ignored_hang_up() -> Iterator[None]:
    before = signal.signal(HUP, signal.SIG_IGN)
    yield
    signal.signal(HUP, before)


@pytest.mark.usefixtures("ignored_hang_up")
def test_an_ignored_hang_up_stays_ignored() -> None:
    with Signals() as signals:
        assert signal.getsignal(HUP) == signal.SIG_IGN
        os.kill(os.getpid(), HUP)
        os.kill(os.getpid(), TERM)
        assert signals.take() == [TERM]
    assert signal.getsignal(HUP) == signal.SIG_IGN


def test_without_sigterm_there_is_no_hang_up() -> None:
    before = signal.getsignal(HUP)
    with Signals([INT]):
        assert signal.getsignal(HUP) == before
    assert signal.getsignal(HUP) == before
