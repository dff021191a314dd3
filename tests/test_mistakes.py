"""The mistakes that people make, one a row: what they ran, the exit status, and what it must tell them.

A message says what happened, where, and what to do, in one or two lines; in one more it shows a place in
a selector. Each row is a line for the shell, run in a folder that the fixture `scene` furnishes.
"""

# ruff: noqa: E501  (a table has one row a line)

from __future__ import annotations

import contextlib
import fcntl
import gzip
import http.server
import importlib
import io
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.errors import RondoError
from rondo_tools.stream import End, Header, Tick
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
HTML = b"<!doctype html><title>Sign in</title>"
ANSWERS = {"/html": (200, HTML), "/none": (404, b"404 page not found\n"), "/deny": (401, b"who are you?\n")}
NOW_MS = time.time_ns() // 1_000_000
NO_VALUES = bytes(8 * len(SERIES))


def encoded(*items: Header | Tick | End) -> bytes:
    return b"".join(map(stream.encode, items))


HEADER = Header("vm-1", NOW_MS, (), 1000, SERIES)
END = End("poweroff", NOW_MS + 1001)
AHEAD_MS = NOW_MS + 3_600_000
STREAM = encoded(HEADER, Tick(NOW_MS + 1000, NO_VALUES), END)
FILES = {
    "ok.stream": STREAM,
    "cut.stream": STREAM[:1000],
    "ahead.stream": encoded(HEADER._replace(start_ms=NOW_MS + 5), Tick(AHEAD_MS, NO_VALUES)),
    "ok.stream.gz": gzip.compress(STREAM),
    "lines.txt": b"# rondo instance=vm-1 start=2026-01-31T12:00:00.000Z interval=1s\n",
    "page.txt": b"# HELP up x\n# TYPE up gauge\nup 1\n",
    "page.json": b'{"up": 1}\n',
    "page.html": HTML,
    "request": b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    "notes.txt": b"to do: sleep\n",
    "empty": b"",
    "token": b"secret\n",
    "odd.img": b"x" * 700,
    "disk.img": bytes(1 << 20),
    "newer/store.json": b'{"format": 99, "id": "00", "tiers": "1s:10m"}',
    "broken/store.json": b"x",
    "plain/letter.txt": b"Dear",
    "headless/cursor_prometheus.json": b"{}",
    "readonly/old": b"",
}

# Set-ups of a row, beside lines of the shell.
NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all"
TERMINAL = "on a terminal"
FULL = "exec >/dev/full"


class Mistake(NamedTuple):
    line: str
    status: int
    message: str
    set_up: str = ""


NO_STREAM = "stream, byte 0: this is"
MISTAKES = [
    # A flag or an argument.
    Mistake("rondo-store st --tier 1s:10m", 64, "there is no flag --tier; did you mean --tiers?"),
    Mistake("rondo-query st", 64, "a command is missing: top, status, list"),
    Mistake("rondo-store", 64, "DIR is missing"),
    Mistake("rondo-query st read", 64, "SELECTOR is missing"),
    Mistake("rondo-vmm --interval", 64, "argument --interval: its value is missing"),
    Mistake("rondo-vmm --interval 0", 64, "argument --interval: '0' is too short: 10ms is the shortest"),
    Mistake("rondo-vmm --interval -1s", 64, "argument --interval: '-1s' is not a duration: write 500ms, 10s"),
    Mistake("rondo-vmm --memory 64K", 64, "--memory: 65536 bytes are not a multiple of 4K from 128K to 3328M"),
    Mistake("rondo-vmm --label a=1 --label a=2", 64, "--label: 'a' is given more than once"),
    Mistake("rondo-attach", 64, "--output is missing: give --output unix:PATH for the metrics of all VMs"),
    Mistake("rondo-attach --pid x --text", 64, "argument --pid: 'x' is not a number"),
    Mistake("rondo-feed page.txt", 64, "unrecognized arguments: page.txt"),
    Mistake("rondo-push st", 64, "--remote-write is missing: write the endpoint's URL"),
    Mistake("rondo-serve st", 64, "--listen is missing: write --listen tcp:127.0.0.1:9464, or unix:PATH"),
    Mistake("rondo-serve st --listen tcp:0.0.0.0:0", 64, "other hosts can reach this address; give --token-file"),
    Mistake("rondo-store st --max-bytes 10", 64, "'10' is too small: 1.0 MiB is the least; write 10G"),
    Mistake("rondo-store half < ok.stream", 69, "half: cannot be written to: Permission denied; half/tier_0 be", NOBODY),
    Mistake("rondo-store part < ok.stream", 69, "part: cannot be written to: Permission denied; part/lock be", NOBODY),
    Mistake("rondo-store st --forget '{}'", 64, "To forget all, remove the store's folder"),
    # A question.
    Mistake("rondo-query st read up --range nonsense", 64, "--range: 'nonsense' is not a duration: write 500ms"),
    Mistake("rondo-query st read up --range -10m", 64, "--range: '-10m' is not a duration: write 500ms"),
    Mistake("rondo-query st read vmm_rss_byte", 1, "did you mean vmm_rss_bytes?"),
    Mistake("rondo-query st read '{instance=\"vm-2\"}'", 1, "did you mean vm-1?"),
    Mistake("rondo-query st read '{instance=vm-1}'", 64, "a quoted string is expected; a shell leaves quotes alone"),
    Mistake("rondo-store st --forget vm-1", 64, "should end here (a range is --range, a rate is --rate, a VM is"),
    Mistake("rondo-query st read 'up[5m]'", 64, "(a range is --range, a rate is --rate"),
    Mistake("rondo-query vmm_rss_bytes read st", 64, "st is one: rondo-query st read vmm_rss_bytes"),
    # A store that is none.
    Mistake("rondo-query nowhere list", 69, "nowhere: no store there (no store.json)"),
    Mistake("rondo-query ok.stream list", 69, "this is a rondo stream; rondo-store DIR < ok.stream makes a store"),
    Mistake("rondo-query notes.txt list", 69, "this is a file; a store is a folder"),
    Mistake("rondo-query list", 69, "no store at ./vmm_metrics or /var/lib/rondo/vmm_metrics: name one, or set RONDO"),
    Mistake("rondo-query newer list", 65, "a newer rondo made it: update this one, or use another folder"),
    Mistake("rondo-query broken list", 65, "broken/store.json: not the description of a store (Expecting value"),
    Mistake("rondo-store plain < ok.stream", 65, "plain: no store, and not empty (letter.txt); name a folder of its own"),
    Mistake("rondo-store headless < ok.stream", 65, "headless: its store.json is gone; put it back from a backup"),
    Mistake("rondo-store broken < ok.stream", 65, "broken: not the description of a store (Expecting value"),
    Mistake("rondo-store locked < ok.stream", 75, "locked/lock: process"),
    Mistake("rondo-query shut list", 69, "shut/store.json: Permission denied; shut belongs to root", NOBODY),
    Mistake("rondo-query st list", 69, "Permission denied; st/", NOBODY),
    Mistake("rondo-push st --remote-write http://$AT/", 69, "cursor_prometheus.lock: Permission denied; st be", NOBODY),
    Mistake("rondo-store st --forget '{instance=\"a\"}'", 69, "forget.json: Permission denied; st bel", NOBODY),
    # Input that is something else.
    Mistake("rondo-store new < lines.txt", 65, f"{NO_STREAM} what --text writes, for people, not a stream; have"),
    Mistake("rondo-store new < ok.stream.gz", 65, f"{NO_STREAM} compressed; give it through gzip -dc"),
    Mistake("rondo-store new < page.txt", 65, f"{NO_STREAM} a page of metrics, not a stream; rondo-feed makes a"),
    Mistake("rondo-store new < page.json", 65, f"{NO_STREAM} JSON, not a stream; rondo-vmm, rondo-attach,"),
    Mistake("rondo-store new < st.dump", 65, f"{NO_STREAM} a dump of a store, not a stream; rondo-store DIR --res"),
    Mistake("rondo-store new < cut.stream", 65, "the input ends inside a message, 1000 bytes after it began"),
    Mistake("rondo-store new < empty", 0, "standard input ended without a stream: nothing was stored"),
    Mistake("rondo-store st < ahead.stream", 0, "vm-1: a tick over 10 min ahead of this clock, refused"),
    Mistake("rondo-store soon < soon.stream 2>&1; rondo-query soon status | grep new >&2", 0, "s ahead of this clock"),
    Mistake("rondo-store new --restore < ok.stream", 65, "this is a rondo stream: leave --restore out"),
    Mistake("rondo-push --remote-write http://$AT/ < ok.stream", 65, "this is a rondo stream; pipe it into rondo-stor"),
    Mistake("rondo-feed --hold 0 --text < ok.stream", 65, "line 1 is left out: this is a rondo stream, which rondo-st"),
    # An endpoint, and the way to it.
    Mistake("rondo-push st --remote-write http://127.0.0.1:1/", 75, "http://127.0.0.1:1/: Connection refused"),
    Mistake("rondo-push st --remote-write http://$AT/html", 69, "answered 200 with an HTML page; no endpoint does"),
    Mistake("rondo-push st --remote-write http://$AT/none", 69, "(Prometheus: --web.enable-remote-write-receiver)"),
    Mistake("rondo-push st --remote-write https://$AT/", 69, "does not speak TLS; is it http:// at this port?"),
    Mistake("rondo-push st --remote-write http://$AT/ --bearer-token-file no", 64, "--bearer-token-file no: No such"),
    Mistake("rondo-push st --remote-write http://$AT/deny --bearer-token-file token", 69, "can read it: chmod 600 token"),
    Mistake("rondo-push st --remote-write https://$AT/ --ca-file notes.txt", 64, "--ca-file notes.txt: it cannot be used"),
    Mistake("rondo-serve st --listen tcp:127.0.0.1:0 --token-file empty", 64, "--token-file empty: it is empty"),
    # A place to listen at, or to write to.
    Mistake("rondo-serve st --listen tcp:$AT", 75, "another process listens there (Address already in use); choose"),
    Mistake("rondo-store mine/a --listen tcp:$AT", 75, "another process listens there (Address already in use); cho"),
    Mistake("rondo-serve st --listen unix:no/x.sock", 69, "No such file or directory; make the folder no"),
    Mistake("rondo-serve st --listen unix:readonly/x", 69, "Permission denied; readonly belongs to root", NOBODY),
    Mistake("rondo-vmm --output unix:notes.txt", 64, "there is a file, not a socket; name the one of rondo-store --li"),
    Mistake("rondo-vmm --output no/x.stream", 64, "--output no/x.stream: No such file or directory; make the folder no"),
    Mistake("rondo-vmm --output http://a/", 64, "a URL is for rondo-push --remote-write"),
    Mistake("rondo-vmm --output unix:a --text", 64, "--text is for people; --output unix:a wants the stream"),
    Mistake("rondo-vmm --output readonly/x", 64, "Permission denied; readonly belongs to root", NOBODY),
    Mistake("rondo-feed --hold 0 --linger 10ms --output unix:no < page.txt", 75, "is rondo-store --listen running there?"),
    Mistake("rondo-attach --output a.stream", 64, "--output a.stream: write unix:PATH or tcp:HOST:PORT"),
    # A VM, and what the host lacks.
    Mistake("rondo-vmm --accel kvm", 69, "/dev/kvm", NOBODY),
    Mistake("rondo-vmm --kernel notes.txt", 65, "neither a bzImage nor an x86-64 ELF vmlinux; distributions keep"),
    Mistake("rondo-vmm --disk nowhere", 69, "--disk nowhere: No such file or directory"),
    Mistake("rondo-vmm --disk disk.img", 69, "--disk disk.img: Permission denied", NOBODY),
    Mistake("rondo-vmm --disk disk.img:ro", 64, "--disk disk.img:ro: the built-in guest writes to its disk"),
    Mistake("rondo-attach --pid 4194304 --text", 69, "--pid 4194304: there is no such process"),
    Mistake("rondo-store mine/b < ok.stream", 69, "(ulimit -f), and need", "ulimit -f 8"),
    # A terminal where data goes or comes from, and outputs that are not there.
    Mistake("rondo-vmm", 64, "standard output is a terminal, and the stream is binary: pipe it, as in", TERMINAL),
    Mistake("rondo-feed < page.txt", 64, "standard output is a terminal, and the stream is binary", TERMINAL),
    Mistake("rondo-query st stream", 64, "a stream is no text for a terminal: write it to a file or a", TERMINAL),
    Mistake("rondo-query st dump", 64, "a dump is no text for a terminal: write it to a file or a pipe", TERMINAL),
    Mistake("rondo-store st", 64, "standard input is a terminal or closed; give it a stream: rondo-vmm |", TERMINAL),
    Mistake("rondo-push --remote-write http://$AT/", 64, "standard input is a terminal: name one, or pipe", TERMINAL),
    Mistake("rondo-vmm", 64, "standard output is closed, but it has to be written", "exec >&-"),
    Mistake("rondo-query st list", 64, "standard output is closed, but the results go there", "exec >&-"),
    # An odd place to run in.
    Mistake("rondo-query list", 69, "no store at ./vmm_metrics or /var", "mkdir gone; cd gone; rmdir ../gone"),
    Mistake("rondo-store new < \"$HERE/ok.stream\"", 69, "new: cannot be written to: No such", "mkdir gone; cd gone; rmdir ../gone"),
    Mistake("rondo-query st read '{}'", 75, "standard output: No space left on device", FULL),
    Mistake("rondo-query st stream", 75, "standard output: No space left on device", FULL),
    Mistake("rondo-query st nope", 64, "there is no command 'nope'", "unset HOME"),
    Mistake("rondo-query st nope", 64, "there is no command 'nope'", "export LC_ALL=C PYTHONUTF8=0 TERM=dumb"),
    Mistake("rondo-query nöpe list", 69, "no store there", "export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"),
    Mistake("rondo-query st nope", 64, "there is no command 'nope'", "ulimit -n 16"),
]  # fmt: skip


class Answers(http.server.BaseHTTPRequestHandler):
    """What stands at a URL that is no endpoint, by its path."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Scene(NamedTuple):
    folder: Path
    environment: dict[str, str]

    def run(self, line: str, **options: Any) -> subprocess.CompletedProcess[str]:
        how: dict[str, Any] = {
                "cwd": self.folder, "env": self.environment, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE, "errors": "replace", "timeout": PATIENCE_S,
            } | options  # fmt: skip
        done: subprocess.CompletedProcess[str] = subprocess.run(["sh", "-c", line], **how)
        return done


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A folder with FILES, stores and a socket that is taken; a server that is no endpoint at $AT."""
    with (
        tempfile.TemporaryDirectory() as name,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server,
        socket.socket(socket.AF_UNIX) as taken,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # another user comes here, too
        for path, data in FILES.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        (folder / "token").chmod(0o644)
        (folder / "readonly").chmod(0o555)
        taken.bind(str(folder / "taken.sock"))
        taken.listen()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{ROOT / 'bin'}:{os.environ['PATH']}",
            "AT": f"127.0.0.1:{server.server_port}",
            "LONG": "unix:/tmp/" + "x" * 120,
            "HERE": name,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment.pop("RONDO_STORE", None)
        made = Scene(folder, environment)
        in_9_min = Tick(time.time_ns() // 1_000_000 + 540_000, NO_VALUES)
        (folder / "soon.stream").write_bytes(encoded(HEADER, in_9_min))
        made.run(
            "rondo-store st < ok.stream && cp -r st shut && cp -r st locked && chmod 700 shut", check=True
        )
        made.run(
            "cp -r st half && chmod -R a+rwX half && cp -r half part && chmod 755 half/tier_0; chmod 600 part/lock",
            check=True,
        )
        made.run("rondo-query st dump > st.dump", check=True)
        with (folder / "locked" / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield made
        server.shutdown()


@pytest.fixture(scope="module")
def another_user(scene: Scene) -> None:
    if scene.run(f"{NOBODY} rondo-query --version").returncode != 0:
        pytest.skip("only root can be another user")


def is_right(status: int, shown: str) -> None:
    """Whatever went wrong, it is few lines, and the status is a documented one."""
    assert status in (0, 1, 64, 65, 69, 75)
    assert "Traceback" not in shown
    lines = shown.splitlines()
    assert len(lines) <= 3, shown
    if status == 64 and not any(line.strip() == "^" for line in lines):
        assert lines[-1].startswith("try: rondo-"), shown


def stops_at_once(mistake: Mistake) -> bool:
    """Whether the row may run in this process, which is ten times cheaper: nothing is opened to be written."""
    is_plain = not mistake.set_up and not re.search(r"[<>;|]", mistake.line)
    return (
        is_plain
        and (mistake.status == 64 or "rondo-query" in mistake.line)
        and "rondo-vmm" not in mistake.line
    )


def run_here(line: str, scene: Scene) -> subprocess.CompletedProcess[str]:
    name, *words = shlex.split(line.replace("$AT", scene.environment["AT"]))
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as shown,
    ):
        patch.chdir(scene.folder)
        patch.delenv("RONDO_STORE", raising=False)
        patch.setattr("sys.stdin", io.StringIO())
        try:
            status = importlib.import_module(f"rondo_tools.{name.removeprefix('rondo-')}.cli").main(words)
        except SystemExit as exc:
            status = exc.code
    return subprocess.CompletedProcess(line, status, stderr=shown.getvalue())


def name_of(mistake: Mistake) -> str:
    set_up = "as nobody" if mistake.set_up == NOBODY else mistake.set_up
    return f"{mistake.line} ({set_up})" if set_up else mistake.line


@pytest.mark.parametrize("mistake", MISTAKES, ids=name_of)
def test_a_mistake_gets_its_message_and_exit_status(
    mistake: Mistake, scene: Scene, request: pytest.FixtureRequest
) -> None:
    if mistake.set_up == TERMINAL:
        ours, terminal = pty.openpty()
        try:
            done = scene.run(mistake.line, stdin=terminal, stdout=terminal)
        finally:
            os.close(ours)
            os.close(terminal)
    elif mistake.set_up == NOBODY:
        request.getfixturevalue("another_user")
        done = scene.run(f"{NOBODY} {mistake.line}")
    elif stops_at_once(mistake):
        done = run_here(mistake.line, scene)
    else:
        done = scene.run(f"{mistake.set_up or ':'}; {mistake.line}")
    assert mistake.message in done.stderr
    assert done.returncode == mistake.status
    is_right(done.returncode, done.stderr)


def test_a_reader_that_leaves_is_no_mistake(scene: Scene) -> None:
    done = scene.run("{ rondo-query st read '{}'; echo $? >&2; } | true")
    assert done.stderr in ("141\n", "0\n")  # it may all have been written before


@pytest.mark.usefixtures("another_user")
def test_a_watcher_without_rights_names_them(scene: Scene) -> None:
    with subprocess.Popen(
        [*NOBODY.split(), "rondo-attach", "--text"], cwd=scene.folder, env=scene.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        shown = "".join(iter(process.stderr.readline, "rondo-attach: watching; exits are not counted\n"))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert "bpf: Operation not permitted (needs CAP_BPF and CAP_PERFMON); missing: vcpu_" in shown
    assert "(needs CAP_PERFMON, and to read tracefs: root or CAP_DAC_READ_SEARCH)" in shown
    is_right(0, shown)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide /dev")
def test_a_host_without_kvm_gets_a_message(scene: Scene) -> None:
    hidden = "unshare -m sh -c 'mount -t tmpfs none /dev && exec {}'"
    if scene.run(hidden.format("true")).returncode != 0:
        pytest.skip("/dev cannot be hidden here")
    done = scene.run(hidden.format("rondo-vmm --accel kvm"))
    assert "there is no /dev/kvm: load kvm_intel or kvm_amd, or give the container the device" in done.stderr
    assert done.returncode == 69
    is_right(done.returncode, done.stderr)


def test_ctrl_c_prints_nothing(scene: Scene) -> None:
    with subprocess.Popen(
        ["rondo-serve", "st", "--listen", "unix:mine.sock"], cwd=scene.folder, env=scene.environment,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "serving st at unix:mine.sock" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE_S) == 0


# Where a command stops that has found nothing wrong with its arguments: before it does anything.
STOPS = (
    "rondo_tools.vmm.cli.open_stream", "rondo_tools.feed.cli.open_stream", "rondo_tools.attach.cli.check_namespace",
    "rondo_tools.attach.listing.check_namespace", "rondo_tools.store.opened.OpenStore", "rondo_tools.store.restore.restore",
    "rondo_tools.store.forget.client.forget_sessions", "rondo_tools.serve.site.Site", "rondo_tools.push.service.Stores",
    "rondo_tools.store.format.opened.open_store",
)  # fmt: skip
WORDS = (
    "", "-", "--", "-1", "0", "10", "1s", "10T", "nonsense", "é", "\udcff", "a=b", "a=", "{", "{}", 'up{a="b"}',
    "up[5m]", "no/such", "unix:", "unix:no/x", "tcp:1", "tcp:127.0.0.1:0", "http://a:1/", "-x", "--x", "-h=", "list",
    "x" * 3000, "%s", "{name}", "name=a*", "1s:10m", "now", "-10m", "\x1b[2J", "a b", "\0",
)  # fmt: skip


TOOLS = ("vmm", "store", "push", "query", "serve", "attach", "feed")
PARSERS = {tool: importlib.import_module(f"rondo_tools.{tool}.cli").make_parser() for tool in TOOLS}


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A tool, and what could be typed after its name: its commands and flags among words of all kinds."""
    tool = draw(st.sampled_from(TOOLS))
    parser = PARSERS[tool]
    name = draw(st.sampled_from([*parser.commands, ""] if parser.commands else [""]))
    flags = (parser.commands[name] if name else parser).flags
    word = st.sampled_from(WORDS) | st.text(max_size=8)
    flag = st.sampled_from(flags) | st.builds("{}={}".format, st.sampled_from(flags), word)
    words = draw(st.lists(flag | word, max_size=6))
    return tool, [*([name] if name else []), *words]


def stop(*_: object, **__: object) -> None:
    raise RondoError("the arguments are right", exit_code=69)


@given(command_lines())
@settings(max_examples=100)
def test_no_arguments_bring_a_traceback(line: tuple[str, list[str]]) -> None:
    tool, words = line
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as err:
        for place in STOPS:
            patch.setattr(place, stop)
        patch.setattr("sys.stdin", io.StringIO())
        patch.chdir("/")
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                status = importlib.import_module(f"rondo_tools.{tool}.cli").main(words)
            except SystemExit as exc:
                status = exc.code
    if "--help" in words or "-h" in words or "--version" in words:
        assert status in (0, 64)
        return
    shown = err.getvalue()
    assert shown or status == 0
    is_right(status, shown)
