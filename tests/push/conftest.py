from __future__ import annotations

import time

import pytest

HALF_HOUR_MS = 1_800_000


@pytest.fixture
def now(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a module's NOW to the time at which its test begins.

    All tests are imported long before the last of them begins, and ticks older than tier 0's span are not
    delivered like new ones. The minute and a half before NOW lies in one half-hour: a push sends no request
    across the beginning of one, and tests count requests.
    """
    now_ms = int(time.time()) * 1000
    past_ms = now_ms % HALF_HOUR_MS
    monkeypatch.setattr(request.module, "NOW", now_ms - past_ms - 1000 if past_ms < 90_000 else now_ms)
