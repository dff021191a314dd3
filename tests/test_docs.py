"""README and docs speak of what is there: commands, flags, targets, files, series."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from functools import cache
from pathlib import Path

import pytest

from devtools.metrics_table import with_table
from rondo_tools import stream
from rondo_tools.store.format import cursor, dump, frames
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "deploy" / "README.md", *DOCS]
COMMANDS = (
    *("rondo-vmm", "rondo-attach", "rondo-feed", "rondo-store", "rondo-push", "rondo-query", "rondo-serve"),
)
QUERY_COMMANDS = (
    *("top", "status", "list", "read", "plot", "tail", "series", "labels", "values", "export", "check"),
    *("stream", "dump"),
)

# Not what is only the beginning of a name: rondo-x-y, rondo-x@y, rondo-x.y.
NO_NAME_GOES_ON = r"(?![\w@-]|\.\w)"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def help_of(command: str) -> str:
    """All that a command's --help says, its sub-commands' included."""

    def ask(*words: str) -> str:
        path = ROOT / "bin" / command
        return subprocess.run(
            [sys.executable, path, *words], capture_output=True, text=True, check=True
        ).stdout

    text = ask("--help")
    if command == "rondo-query":
        text += "".join(ask("STORE", name, "--help") for name in QUERY_COMMANDS)
    if command == "rondo-attach":
        text += ask("list", "--help")
    return text


def mentions(page: Path) -> list[tuple[str, str]]:
    """(command, flag) for each flag that a page shows behind a command, in one line of code or pipe."""
    found = []
    for code in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.DOTALL):
        joined = code.replace("\\\n", " ").replace("|\n", "| ")
        for line in joined.splitlines():
            # What is behind a pipe or a semicolon is another command's.
            for part in re.split(r"\||;|&&", line):
                command = re.search(
                    r"\b(rondo-\w+)(?!: )" + NO_NAME_GOES_ON, part
                )  # "rondo-x: " is what it says
                if command and command[1] in COMMANDS:
                    rest = part[command.end() :]
                    found += [(command[1], flag) for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", rest)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_flag_in_the_docs_exists(page: Path) -> None:
    for command, flag in mentions(page):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_of(command)), f"{command} {flag}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_target_in_the_docs_exists(page: Path) -> None:
    text = page.read_text()
    for command in re.findall(r"\b(rondo-(?!tools\b)\w+)" + NO_NAME_GOES_ON, text):
        assert command in COMMANDS, command
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL):
        for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", code):
            assert target in targets, target


@cache
def anchors(page: Path) -> set[str]:
    """The places in a page that a link can name, as code hostings make them of its headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_link_in_the_docs_exists(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text)
    links += [(path, "") for path in re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    for path, anchor in links:
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
    for path in re.findall(r"`((?:rondo_tools|scripts|tests|docs|deploy|bin)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_table_of_series_is_the_catalogue() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert text == with_table(text), "run scripts/metrics_table.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_version_and_names_a_wrong_flag(command: str, run: Run) -> None:
    version = run(command, "--version")
    assert version.returncode == 0
    assert re.fullmatch(rb"rondo-\w+ \d+\.\d+\.\d+\n", version.stdout)
    wrong = run(command, "--no-such-flag")
    assert wrong.returncode == 64
    assert wrong.stdout == b""
    assert b"Traceback" not in wrong.stderr
    assert wrong.stderr.startswith(command.encode())
    assert b"--help" in wrong.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_exit_statuses(command: str) -> None:
    assert re.search(r"exit status", help_of(command), re.IGNORECASE)
    assert "75" in help_of(command)


def test_the_readme_s_three_commands_work_as_they_stand(tmp_path: Path) -> None:
    """As printed, but that the VM lives for two seconds and the page has a free port."""
    section = (ROOT / "README.md").read_text().partition("## Three commands\n")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block
    pipeline, read, serve = block[1].replace("15s", "2s").replace(":9464", ":0").splitlines()
    path = os.pathsep.join([str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path}

    def shell(line: str) -> str:
        command = ["bash", "-c", f"set -o pipefail; {line}"]
        return subprocess.check_output(command, cwd=tmp_path, env=env, timeout=PATIENCE_S, text=True)

    shell(pipeline)
    assert "vcpu_exits_total" in shell(read)
    command = ["bash", "-c", f"exec {serve}"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            address = re.search(r"tcp:(127\.0\.0\.1:\d+)", server.stderr.readline())
            assert address
            with urllib.request.urlopen(f"http://{address[1]}/", timeout=PATIENCE_S) as answer:
                assert b"<title>" in answer.read()
        finally:
            server.send_signal(signal.SIGTERM)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    assert [
        page.name for page in DOCS if page.parent == index.parent and page != index and page not in linked
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_begins_with_its_purpose(page: Path) -> None:
    title, blank, first = page.read_text().splitlines()[:3]
    assert title.startswith("# ")
    assert not blank
    assert re.match(r"(?!```)[\w`*\[]", first), "a sentence, not a table, a picture or a command"


def test_the_glossary_explains_each_word_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) == len(set(words))
    wanted = (
        *(
            "session",
            "tick",
            "tier",
            "journal",
            "frame",
            "window",
            "roll-up",
            "watermark",
            "cursor",
            "in flight",
        ),
        *("unclear", "dead letter", "backpressure", "budget", "quota", "instance", "instance name rules"),
        *("stale marker", "late", "lost", "producer", "stream", "store", "series", "sample", "schema"),
    )
    assert set(wanted) <= set(words)


def test_the_changelog_promises_compatibility_of_the_formats_that_there_are() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = dict(re.findall(r"^\| (?:the|a) (\w+) \| (\d+) \|", text, re.MULTILINE))
    now = {"stream": stream.VERSION, "store": frames.FORMAT, "dump": dump.VERSION, "cursor": cursor.VERSION}
    assert versions == {name: str(version) for name, version in now.items()}


def test_the_changelog_keeps_its_form() -> None:
    """Releases, the newest first, and in each what kind of change it is."""
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections[:2] == ["Compatibility", "Unreleased"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", one) for one in sections[2:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
