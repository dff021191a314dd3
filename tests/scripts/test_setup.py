"""scripts/setup.sh: what it installs, when it does nothing, and what an interruption costs.

With a Python that only writes down what it is asked to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devtools import ROOT
from tests.support.needs import PATIENCE_S

FAKE_PYTHON = r"""#!/bin/sh
die() { # as a power cut: setup.sh as well
    if [ "$(cat die 2>/dev/null)" = "$1" ]; then
        kill -9 $PPID $$
    fi
}
case "$*" in
"-m venv .venv")
    echo venv >>log
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    die venv
    ;;
"-m pip install "*)
    echo "pip $(echo "$*" | grep -o "[.][^ ]*\]")" >>log
    die pip
    ;;
esac
"""

OLD = "[project]\n"


class Checkout:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
        (folder / "pyproject.toml").write_text(OLD)
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def setup(self, tier: str, *, dies: str = "") -> list[str]:
        """Run it; what it did. `dies`: at this step, by SIGKILL."""
        log = self.folder / "log"
        log.write_text("")
        (self.folder / "die").write_text(dies)
        command = ["sh", "scripts/setup.sh", *([tier] if tier else [])]
        environment = os.environ | {"PYTHON": str(self.python)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, timeout=PATIENCE_S
        )
        assert done.returncode == (-9 if dies else 0), done.stderr
        return log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
DEMO = "pip .[plot]" if kvm else "pip .[plot,soft]"


def test_developers_set_up_on_top_of_the_demos(checkout: Checkout) -> None:
    assert checkout.setup("demo") == ["venv", DEMO]
    assert checkout.setup("demo") == []
    assert checkout.setup("dev") == ["pip .[dev]"]
    assert checkout.setup("") == []
    assert checkout.setup("demo") == []


def test_a_changed_project_is_set_up_anew(checkout: Checkout) -> None:
    checkout.setup("dev")
    (checkout.folder / "pyproject.toml").write_text(OLD + "# more\n")
    assert checkout.setup("demo") == ["venv", DEMO]
    assert checkout.setup("dev") == ["pip .[dev]"]


@pytest.mark.parametrize("step", ["venv", "pip"])
@pytest.mark.parametrize("tier", ["demo", "dev"])
def test_killed_it_begins_anew(checkout: Checkout, tier: str, step: str) -> None:
    checkout.setup(tier, dies=step)
    half = checkout.folder / ".venv" / "half"
    half.touch()
    assert checkout.setup(tier)[0] == "venv"
    assert not half.exists()
    assert checkout.setup(tier) == []


def test_killed_while_it_adds_it_begins_anew(checkout: Checkout) -> None:
    checkout.setup("demo")
    assert checkout.setup("dev", dies="pip") == ["pip .[dev]"]
    assert checkout.setup("demo") == ["venv", DEMO]


def test_an_unknown_tier_is_a_usage_error(checkout: Checkout) -> None:
    done = subprocess.run(
        ["sh", "scripts/setup.sh", "all"], cwd=checkout.folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (64, "usage: setup.sh [dev | demo]\n")
