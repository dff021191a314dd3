"""What a test needs of the machine it runs on."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

PATIENCE_S = 300
"""How long a test waits for something that must happen. It bounds a hang; a pass never depends on it.

A busy machine is slow, so no bound in a test is shorter, unless the test wants it to pass.
"""

LAB_S = 1800
"""The same for a laboratory: a minute of emulation is ten on a busy machine."""

PATIENT_VMM = """
vmm() {
    python3 -c 'import sys; from rondo_tools.vmm import cli, config; config.LINUX_MARGIN_MS = 1_500_000
sys.exit(cli.main())' "$@"
}
"""
"""rondo-vmm as a function of a laboratory's shell, that gives a Linux more than a minute to boot."""


def must_have(what: str) -> NoReturn:
    """Skip the test for want of `what`, loudly; in CI, where all must be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)
