"""SIGINT and SIGTERM as something to select on."""

from __future__ import annotations

import os
import select
import signal

from rondo_tools.signals import Signals

INT, TERM = signal.SIGINT, signal.SIGTERM


def ready(signals: Signals) -> bool:
    return bool(select.select([signals.fileno()], [], [], 0)[0])


def test_they_arrive_in_order_and_once() -> None:
    with Signals() as signals:
        assert not ready(signals)
        assert signals.take() == []
        for number in (INT, TERM, INT):
            os.kill(os.getpid(), number)
        assert ready(signals)
        assert signals.take() == [INT, TERM, INT]
        assert not ready(signals)
        assert signals.take() == []


def test_what_was_before_is_put_back() -> None:
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


def test_a_flood_is_no_harm() -> None:
    """More signals than the pipe holds: those that find no room are lost, nothing blocks."""
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
