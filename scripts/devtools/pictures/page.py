"""rondo-serve's page of a made-up host, in Chromium.

The first picture shows the host, the second one of its VMs. The host is that of docs/top.svg, with ten
minutes of builds that come and go, so the pictures are the same each time, except for the free disk space.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from devtools import ROOT
from devtools.filled_store import Life, fill
from devtools.pictures.top import NOW_MS, a_life, lives
from devtools.programs import fetch
from rondo_tools.store.folder import Folder
from rondo_tools.store.keeper import Keeper

PAST_S = 600
ENDS = ("poweroff",) * 7 + ("error", "signal", "deadline")
PROGRAM = f"""\
import sys
from rondo_tools import clock
clock.now_ms = lambda: {NOW_MS}
from rondo_tools.serve.cli import main
sys.exit(main())
"""
PICTURES: dict[Literal["light", "dark"], tuple[str, int]] = {
    "light": ("", 978),
    "dark": ("?vm=web-19&range=60000", 962),
}


def draw(folder: Path) -> None:
    """Draw page-light.png and page-dark.png into a folder."""
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "vmm_metrics"
        fill(store, [*lives(PAST_S), *builds()], lambda: NOW_MS)
        with Keeper(Folder(store), now_ms=lambda: NOW_MS), serving(store) as url:
            _draw(url, folder)


def builds() -> Iterator[Life]:
    """Builds: one begins every ten seconds or so, lives some seconds, and ends in some way."""
    rng = np.random.default_rng(5)
    began_s = PAST_S
    for number in range(4630, 4700):
        began_s -= int(rng.integers(4, 13))
        lived_s = int(rng.integers(4, 50)) if number % 9 else 150
        if began_s - lived_s < 60:  # the other host has those of the last minute
            continue
        end = ENDS[int(rng.integers(len(ENDS)))]
        yield a_life(
            rng, f"build-{number}", began_s, ended_s=began_s - lived_s, end=end, exits=3000, kept_s=PAST_S
        )


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """A rondo-serve with a stopped clock; yields its address."""
    command = [sys.executable, "-c", PROGRAM, str(store), "--listen", "tcp:127.0.0.1:0"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if " at tcp:" in line:
                    yield f"http://{line.strip().rpartition('tcp:')[2]}/"
                    return
            raise RuntimeError(f"rondo-serve ended with {process.wait()}")
        finally:
            process.terminate()


def _draw(url: str, folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=fetch("chromium"), args=["--no-sandbox"])
        for scheme, (address, height) in PICTURES.items():
            page = browser.new_page(
                viewport={"width": 1280, "height": height}, color_scheme=scheme,
                timezone_id="UTC", locale="en-GB", reduced_motion="reduce",
            )  # fmt: skip
            page.goto(url + address)
            page.wait_for_selector("#vms tbody tr")
            if address:
                page.wait_for_selector("#vm figure canvas")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=folder / f"page-{scheme}.png")
        browser.close()
