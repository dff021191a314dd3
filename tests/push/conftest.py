from __future__ import annotations

import time

import pytest


@pytest.fixture
def now(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a module's NOW to the time at which its test begins.

    All tests are imported long before the last of them begins, and what is older than tier 0 holds is not
    delivered like what is new.
    """
    monkeypatch.setattr(request.module, "NOW", int(time.time()) * 1000)
