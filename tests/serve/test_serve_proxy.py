"""The page behind a real nginx, with the lines of docs/serve.md: a sub-path, a Unix socket, Basic."""

from __future__ import annotations

import base64
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright import sync_api as playwright

from devtools.receivers.prometheus import free_port
from tests.serve.test_serve_page import browser, opened
from tests.support.needs import PATIENCE_S
from tests.support.serve.serve_host import ROOT, being_stored, life, serving, until

__all__ = ["browser"]  # a fixture

PASSWORD = base64.b64encode(b"ops:secret").decode()


def snippet() -> str:
    found = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)
    assert found
    return found[1]


@contextmanager
def nginx(program: Path, folder: Path, socket: Path) -> Iterator[str]:
    """nginx with the documented lines, on a free port; yields the page's address."""
    users = folder / "rondo.htpasswd"
    users.write_text("ops:{PLAIN}secret\n")
    location = snippet().replace("/run/rondo-serve/http.sock", str(socket))
    location = location.replace("/etc/nginx/rondo.htpasswd", str(users))
    port = free_port()
    paths = "".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; error_log stderr; pid {folder / 'pid'};"
        f"events {{}} http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; {location} }} }}"
    )
    command: list[str | Path] = [program, "-e", "stderr", "-c", configuration, "-p", folder]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}/rondo/"
            until(lambda: process.poll() is not None or status(url) == 401)
            assert process.poll() is None, (folder / "log").read_text()
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=PATIENCE_S
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


def test_the_page_under_a_path_with_a_password(
    browser: playwright.Browser, program: Callable[[str], Path], tmp_path: Path
) -> None:
    socket = tmp_path / "http.sock"
    now_ms = time.time_ns() // 1_000_000
    with (
        being_stored(tmp_path / "s", life("vm-1", now_ms - 60_000, 50), ticks=50),
        serving(tmp_path / "s", listen=f"unix:{socket}"),
        nginx(program("nginx"), tmp_path, socket) as url,
    ):
        assert status(url) == 401
        assert status(url, Authorization=f"Basic {PASSWORD}") == 200
        assert status(f"{url}static/app.js", Authorization=f"Basic {PASSWORD}") == 200
        with opened(browser, url, http_credentials={"username": "ops", "password": "secret"}) as page:
            page.get_by_role("button", name="vm-1", exact=True).click()
            page.locator("#vm .facts").filter(has_text="every tick").wait_for()
            assert "/rondo/?vm=vm-1" in page.url


def test_a_wrong_line_is_noticed(program: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError), nginx(program("nginx"), tmp_path, tmp_path / "no; such\n line {"):
        pass
