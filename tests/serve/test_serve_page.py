"""The live page in a real Chromium: content, limits, accessibility."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api as playwright

from devtools.filled_store import Life, fill
from rondo_tools import stream
from tests.support.needs import PATIENCE_S, must_have
from tests.support.serve.serve_host import (
    EXITS,
    ROOT,
    Served,
    being_stored,
    life,
    serving,
    store_stream,
    until,
)

HOSTILE = '<img src=x onerror="document.title=1">' + "\u202e" + "x" * 900
PATIENCE_MS = PATIENCE_S * 1000


class Feed:
    """A VM's connection to the store; the test sends its ticks."""

    def __init__(self, peer: socket.socket, instance: str, start_ms: int, number: int = 0) -> None:
        self.peer, self.instance, self.start_ms, self.number = peer, instance, start_ms, number

    def tick(self, rss: float = 5e7) -> None:
        self.number += 1
        values = 1000.0 * self.number, 10.0 * self.number, rss
        t_ms = max(time.time_ns() // 1_000_000, self.start_ms + self.number)
        self.peer.sendall(stream.encode(stream.Tick(t_ms, struct.pack("<3d", *values))))

    def end(self, reason: str) -> None:
        self.peer.sendall(stream.encode(stream.End(reason, time.time_ns() // 1_000_000)))


class Host(NamedTuple):
    served: Served
    feeds: dict[str, Feed]


@contextmanager
def a_host(folder: Path) -> Iterator[Host]:
    """Three VMs with five minutes of ticks: one with two lives, one with a hostile name."""
    now_ms = time.time_ns() // 1_000_000
    start_ms = now_ms // 1000 * 1000 - 300_000
    names = ["vm-1", "vm-2", HOSTILE]
    streams = [life(name, start_ms, 299, seed=n + 1) for n, name in enumerate(names)]
    streams.append(life("short", start_ms + 60_000, 30, end="error"))
    streams[1] = life("vm-2", start_ms - 120_000, 100, end="reset") + streams[1]
    with (
        being_stored(folder / "s", *streams, ticks=3 * 299 + 30 + 100, health=True) as peers,
        serving(folder / "s") as served,
    ):
        feeds = {name: Feed(peer, name, start_ms, 10_000) for name, peer in zip(names, peers, strict=False)}
        yield Host(served, feeds)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with a_host(tmp_path_factory.mktemp("host")) as one:
        yield one


@pytest.fixture(scope="module")
def browser(program: Callable[[str], Path]) -> Iterator[playwright.Browser]:
    path = program("chromium")
    with playwright.sync_playwright() as started:
        try:
            one = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as exc:
            must_have(f"Chromium does not start: {exc}")
        yield one
        one.close()


@contextmanager
def opened(
    browser: playwright.Browser, url: str, there: str = "#vms tbody tr", **settings: Any
) -> Iterator[playwright.Page]:
    """A page; at the end it must have logged nothing, and sent no request to another server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    logged: list[str] = []
    page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: logged.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector(there, state="attached")
    yield page
    elsewhere = [one for one in asked if not one.startswith(url.split("/?")[0])]
    context.close()
    assert logged == []
    assert elsewhere == []


def row(page: playwright.Page, name: str) -> playwright.Locator:
    return page.locator("#vms tbody tr").filter(has=page.get_by_role("button", name=name, exact=True))


def until_held(page: playwright.Page, held: list[playwright.Route], count: int) -> None:
    """Let the page run until `count` of its requests are held back."""

    def is_so() -> bool:
        page.wait_for_timeout(50)
        return len(held) == count

    until(is_so)


def test_a_vm_appears_and_shows_its_end(browser: playwright.Browser, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    with (
        being_stored(tmp_path / "s", life("old", now_ms - 60_000, 50), ticks=50) as (peer,),
        serving(tmp_path / "s") as served,
        opened(browser, f"{served.url}/") as page,
    ):
        with socket.socket(socket.AF_UNIX) as born:
            born.connect(str(tmp_path / "store.sock"))
            start_ms = time.time_ns() // 1_000_000
            born.sendall(stream.encode(stream.Header("new", start_ms, (), 1000, EXITS)))
            feed = Feed(born, "new", start_ms)
            feed.tick(rss=123 << 20)
            row(page, "new").wait_for()
            assert "123 MiB" in row(page, "new").inner_text()
            assert "running" in row(page, "new").inner_text()
            feed.tick()
            feed.end("poweroff")
            row(page, "new").get_by_text("poweroff").wait_for()
        page.get_by_text("poweroff 1", exact=True).wait_for()  # in the legend of the lives
        assert peer.fileno() >= 0


def test_a_life_in_charts_and_a_drag_that_changes_the_tier(
    browser: playwright.Browser, tmp_path: Path
) -> None:
    """A week of a tick a minute has too many rows for a chart; a day does not."""
    now_ms = time.time_ns() // 1_000_000
    t_ms = np.arange(now_ms - 7 * 86_400_000, now_ms, 60_000)
    values = np.outer(np.arange(t_ms.size), [1.0, 2.0, 3.0])
    header = stream.Header("vm-2", int(t_ms[0]) - 1, (), 60_000, EXITS)
    fill(tmp_path / "s", [Life(header, t_ms, values)])
    with serving(tmp_path / "s") as served, opened(browser, f"{served.url}/?vm=vm-2") as page:
        page.locator("#vm h2", has_text="vm-2").wait_for()
        facts = page.locator("#vm .facts")
        facts.filter(has_text="every tick").wait_for()
        page.get_by_role("button", name="7 d").click()
        facts.filter(has_text="rows of 5 min (tier 2): zoom in for a finer tier").wait_for()
        assert "range=604800000" in page.url
        chart = page.locator("#vm canvas").first
        box = chart.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 64 + (box["width"] - 70) * 6 / 7, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 8, box["y"] + 40, steps=5)
        page.mouse.up()
        facts.filter(has_text="every tick").wait_for()
        assert "start=" in page.url
        command = page.locator("#vm code").inner_text()
        assert command.startswith("rondo-query /")
        assert "read '{instance=\"vm-2\"}' --start 20" in command
        # The address restores it.
        page.goto(page.url)
        page.locator("#vm .facts").filter(has_text="every tick").wait_for()


def test_one_cursor_for_all_charts_by_keys(browser: playwright.Browser, host: Host) -> None:
    with opened(browser, f"{host.served.url}/?vm=vm-1") as page:
        page.locator("#vm figure").nth(1).wait_for()
        page.locator("#vm .facts").filter(has_text="rows").wait_for()
        page.locator("#vm canvas").first.focus()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        script = "[...document.querySelectorAll('#vm output')].map((one) => one.textContent)"
        until(lambda: all(re.search(r"\d:\d\d:\d\d", one) for one in page.evaluate(script)))


def test_sort_filter_and_pause(browser: playwright.Browser, host: Host) -> None:
    with opened(browser, f"{host.served.url}/") as page:
        names = "[...document.querySelectorAll('#vms tbody button')].map((one) => one.textContent)"
        page.get_by_role("button", name="VM", exact=True).click()
        page.locator("th[aria-sort]", has_text="VM").wait_for()
        found = page.evaluate(names)
        assert found == sorted(found, key=str.casefold)
        page.get_by_role("button", name="VM", exact=True).click()
        assert page.evaluate(names) == found[::-1]
        assert "sort=name" in page.url
        page.get_by_label("Filter").fill("vm-")
        assert set(page.evaluate(names)) == {"vm-1", "vm-2"}
        page.get_by_label("Filter").fill("")
        page.get_by_role("button", name="Pause").click()
        assert page.locator("#late").inner_text() == "paused"
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.wait_for_timeout(2500)
        assert requests == []
        page.get_by_role("button", name="Resume").click()
        until(lambda: page.locator("#late").inner_text() == "")


def test_one_request_at_a_time(browser: playwright.Browser, host: Host) -> None:
    """Pause and resume while an answer is on its way do not double the requests."""
    held: list[playwright.Route] = []
    with opened(browser, f"{host.served.url}/") as page:
        page.route("**/api/v1/live*", lambda route: held.append(route))
        until_held(page, held, 1)
        for _ in range(3):
            page.get_by_role("button", name="Pause").click()
            page.get_by_role("button", name="Resume").click()
        page.wait_for_timeout(100)
        assert len(held) == 1
        held[0].continue_()
        page.unroute("**/api/v1/live*")


def test_an_answer_for_another_vm_is_not_shown(browser: playwright.Browser, host: Host) -> None:
    held: list[playwright.Route] = []
    with opened(browser, f"{host.served.url}/") as page:
        page.route("**/api/v1/range*", lambda route: held.append(route))
        row(page, "vm-1").get_by_role("button").click()
        until_held(page, held, 1)
        row(page, "vm-2").get_by_role("button").click()
        held[0].continue_()
        until_held(page, held, 2)
        assert "instance=vm-2" in held[1].request.url
        assert page.locator("#vm .facts").inner_text() == ""
        held[1].continue_()
        page.unroute("**/api/v1/range*")
        page.locator("#vm .facts").filter(has_text="rows").wait_for()


def test_a_vm_with_a_new_id_is_the_same(browser: playwright.Browser, host: Host) -> None:
    """After the server was away everything is sent again; the open VM ends later."""
    anew = json.loads(host.served.ask("/api/v1/live").body)
    for vm in anew["vms"]:
        vm[0] += 1000
        if vm[1] == "vm-1":
            vm[4], vm[5] = "poweroff", vm[6]
    with opened(browser, f"{host.served.url}/?vm=vm-1") as page:
        page.locator("#vm .facts").filter(has_text="rows").wait_for()
        page.route("**/api/v1/live*", lambda route: route.fulfill(json=anew))
        page.locator("#vm .facts").filter(has_text="poweroff, began").wait_for()


@pytest.mark.parametrize(
    "garbage",
    ["range=-5", "range=1e99", "range=x", "start=5&end=x", "start=9&end=5", "start=-1e99&end=1e99&session=x"],
)
def test_an_invalid_address_is_ignored(browser: playwright.Browser, host: Host, garbage: str) -> None:
    with opened(browser, f"{host.served.url}/?vm=vm-1&sort=__proto__&order=9&{garbage}") as page:
        page.locator("#vm .facts").filter(has_text="every tick").wait_for()
        assert page.get_by_role("button", name="10 min").get_attribute("aria-pressed") == "true"


def test_a_scale_has_round_numbers_of_its_unit(browser: playwright.Browser, host: Host) -> None:
    """Steps of about three lines: of bytes a power of two, of others 1, 2, 2.5 or 5 times a power of ten."""
    spans = [2.7 * 2**20, 9.1, 700.0]
    with opened(browser, f"{host.served.url}/") as page:
        steps = page.evaluate(
            """async (spans) => {
              const { niceStep } = await import("./static/chart.js");
              return spans.map((span) => [niceStep(span, 3), niceStep(span, 3, true)]);
            }""",
            spans,
        )
    assert steps == [[1e6, 2**20], [5, 4], [250, 256]]


def test_an_empty_page_shows_a_message(browser: playwright.Browser, host: Host, tmp_path: Path) -> None:
    """A host without VMs, a filter without matches, and a missing value."""
    with opened(browser, f"{host.served.url}/") as page:
        cpu = page.locator("#tiles div").filter(has_text="CPU").locator("dd")
        assert cpu.inner_text() == "\u2013"
        page.get_by_label("Filter").fill("nobody")
        page.locator("#shown", has_text="no VM matches").wait_for()
    store_stream(tmp_path / "s", life("old", time.time_ns() // 1_000_000 - 600_000, 5, end="poweroff"))
    with serving(tmp_path / "s") as served, opened(browser, f"{served.url}/", "#shown:not(:empty)") as page:
        assert page.locator("#shown").inner_text() == "no VM has had a tick in the last minute"


def test_a_hostile_name_is_shown_as_text(browser: playwright.Browser, host: Host) -> None:
    with opened(browser, f"{host.served.url}/") as page:
        row(page, HOSTILE).get_by_role("button").click()
        page.locator("#vm h2").wait_for()
        assert page.locator("#vm h2").inner_text().startswith("<img src=x")
        page.locator("#vm code").filter(has_text="onerror").wait_for()
        assert page.title() == "rondo"
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_dark_and_light(browser: playwright.Browser, host: Host) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        with opened(browser, f"{host.served.url}/", color_scheme=scheme) as page:
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: playwright.Browser, host: Host, scheme: str) -> None:
    with opened(browser, f"{host.served.url}/?vm=vm-1", color_scheme=scheme) as page:
        page.locator("#vm figure").first.wait_for()
        page.locator("#lives-list summary").click()
        found = Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious] == []


def test_tab_reaches_all_controls(browser: playwright.Browser, host: Host) -> None:
    with opened(browser, f"{host.served.url}/?vm=vm-1") as page:
        page.locator("#vm figure").nth(1).wait_for()
        page.get_by_role("button", name="Pause").click()
        things = page.evaluate(
            """() => {
                const all = [...document.querySelectorAll("button, input, summary, [tabindex='0']")];
                const seen = all.filter((one) => one.checkVisibility());
                seen.forEach((one, i) => (one.dataset.reach = i));
                document.activeElement?.blur();
                return seen.length;
            }"""
        )
        reached = set()
        for _ in range(2 * things + 5):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.dataset.reach"))
        assert {str(n) for n in range(things)} - reached == set()


def test_the_page_reports_a_missing_server(browser: playwright.Browser, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    with (
        being_stored(tmp_path / "s", life("vm-1", now_ms - 60_000, 50), ticks=50),
        serving(tmp_path / "s") as served,
    ):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{served.url}/")
        page.wait_for_selector("#vms tbody tr")
        served.process.kill()
        served.process.wait()
        page.get_by_text("data is late").wait_for(timeout=PATIENCE_MS)
        context.close()
        served.process.returncode = 0  # the test has killed it


def test_the_pictures_in_the_docs_can_be_drawn(program: Callable[[str], Path], tmp_path: Path) -> None:
    program("chromium")
    subprocess.run([sys.executable, ROOT / "scripts" / "page_picture.py", tmp_path], check=True)
    for name in ("page-light.png", "page-dark.png"):
        for picture in (tmp_path / name, ROOT / "docs" / name):
            data = picture.read_bytes()
            assert data.startswith(b"\x89PNG")
            assert len(data) < 200_000


@pytest.mark.long
def test_a_tab_left_open_does_not_grow(browser: playwright.Browser, tmp_path: Path) -> None:
    """Five minutes of VMs that begin and end: the heap after a collection does not grow."""
    with a_host(tmp_path) as host, opened(browser, f"{host.served.url}/?vm=vm-1&range=60000") as page:
        session = page.context.new_cdp_session(page)
        sizes = []
        began_s, number = time.monotonic(), 0
        while time.monotonic() - began_s < 300:
            number += 1
            for feed in host.feeds.values():
                feed.tick()
            with socket.socket(socket.AF_UNIX) as born:
                born.connect(str(tmp_path / "store.sock"))
                start_ms = time.time_ns() // 1_000_000
                born.sendall(stream.encode(stream.Header(f"life-{number}", start_ms, (), 1000, EXITS)))
                one = Feed(born, f"life-{number}", start_ms)
                one.tick()
                one.end("poweroff")
            page.wait_for_timeout(1000)
            if number % 30 == 0:
                session.send("HeapProfiler.collectGarbage")
                sizes.append(session.send("Runtime.getHeapUsage")["usedSize"])
        # The lives grow for ten minutes, by some hundred bytes each; the first minutes fill the rings.
        assert max(sizes[len(sizes) // 2 :]) < sizes[1] * 1.5 + 2e6, json.dumps(sizes)
