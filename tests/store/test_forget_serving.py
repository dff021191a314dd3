"""Forgetting while a rondo-store writes: by a request in its folder, without loss of new data."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.errors import EX_TEMPFAIL, RondoError, StoreError, UsageError
from rondo_tools.store.folder import Folder
from rondo_tools.store.forget.client import forget_sessions
from rondo_tools.store.forget.request import Answer, Request, RequestFile, new_request, parse_forget
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.store.server.server import Server
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S
from tests.support.store.store_host import (
    PROGRAM,
    Clock,
    acknowledged,
    connected,
    data,
    deliver,
    started,
    turns,
    wait_for_log,
)

ONE = '{instance="secret"}'
TICK = len(stream.encode(stream.Tick(1 << 40, bytes(128))))


def ticks_of(path: Path) -> dict[str, int]:
    return {one.instance: one.rows().t_ms.size for one in Store(path).sessions()}


def is_clean(path: Path) -> bool:
    return not list(Store(path).checker().findings())


def has(path: Path, needle: bytes) -> bool:
    return any(needle in file.read_bytes() for file in path.rglob("*") if file.is_file())


def ask(server: Server, path: Path, clock: Clock, text: str = ONE) -> Answer:
    """Write a request, and run the server until the answer."""
    file = RequestFile(Layout(path))
    assert file.leave(new_request(parse_forget(text)))
    while not isinstance(found := file.read(), Answer):
        clock.now += 1
        server.timers.run()
        server.turn(0.05)
    file.remove()
    return found


def test_later_ticks_are_new_data(
    serving: Server, path: Path, address: str, clock: Clock, begin_ms: int
) -> None:
    assert deliver_in(serving, address, data(begin_ms, 30, instance="other"))
    whole = data(begin_ms, 60, end=False, instance="secret")
    with connected(address) as peer:
        peer.sendall(whole[: -20 * TICK])
        turns(serving)
        assert ticks_of(path) == {"other": 30, "secret": 40}
        answer = ask(serving, path, clock)
        assert (answer.sessions, answer.rows, answer.connected, answer.status) == (1, 40, 1, 0)
        assert ticks_of(path) == {"other": 30}
        assert not has(path, b"secret")
        peer.sendall(whole[-20 * TICK : -10 * TICK])
        turns(serving)
        assert ticks_of(path) == {"other": 30, "secret": 10}
    turns(serving)
    # Its producer connects again, and sends its backlog again.
    assert deliver_in(serving, address, whole)
    assert ticks_of(path) == {"other": 30, "secret": 20}
    assert is_clean(path)


def deliver_in(server: Server, address: str, message: bytes) -> bool:
    with connected(address) as peer:
        peer.sendall(message)
        turns(server)
        peer.shutdown(1)
        turns(server)
        return peer.recv(1) == b""


def test_an_ended_session_may_be_stored_again(
    serving: Server, path: Path, address: str, clock: Clock, begin_ms: int
) -> None:
    whole = data(begin_ms, 30, instance="secret")
    assert deliver_in(serving, address, whole)
    assert ask(serving, path, clock).connected == 0
    assert not has(path, b"secret")
    assert ticks_of(path) == {}
    assert deliver_in(serving, address, whole)
    assert ticks_of(path) == {"secret": 30}
    # Again, when it is rolled up and remembered.
    clock.now += 600
    assert deliver_in(serving, address, data(begin_ms, 3, instance="other"))
    while serving.keeper.closed or not serving.store.upkeep.remembered:
        serving.turn(0.05)
    assert deliver_in(serving, address, whole)
    assert ticks_of(path) == {"other": 3, "secret": 30}
    assert ask(serving, path, clock).sessions == 1
    assert not has(path, b"secret")
    assert deliver_in(serving, address, whole)
    assert ticks_of(path) == {"other": 3, "secret": 30}
    assert is_clean(path)


@pytest.mark.parametrize(
    "junk",
    [b"", b"\0" * 100, b"[]", b'{"selector": "{}", "key": "00", "begun": false}', b'{"selector": 1}', b"{"],
)
def test_an_invalid_request_is_ignored(
    serving: Server, path: Path, address: str, clock: Clock, begin_ms: int, junk: bytes
) -> None:
    assert deliver_in(serving, address, data(begin_ms, 3))
    request = Layout(path).forget_json
    request.write_bytes(junk)
    for _ in range(3):
        clock.now += 1
        serving.timers.run()
        turns(serving)
    assert request.read_bytes() == junk
    assert ticks_of(path) == {"vm-1": 3}


def test_the_command_works_with_a_running_server(path: Path, run: Run, tmp_path: Path, begin_ms: int) -> None:
    address = str(tmp_path / "sock")
    with started(path, "--listen", f"unix:{address}", stdin=subprocess.DEVNULL) as server:
        wait_for_log(server, "listening")
        assert deliver(address, data(begin_ms, 30, instance="secret"))
        with connected(address) as peer:
            peer.sendall(data(begin_ms, 20, end=False, instance="vm-1"))
            done = run("rondo-store", path, "--forget", ONE)
            assert (done.returncode, done.stdout) == (0, b"")
            assert done.stderr == b"rondo-store: forgot 1 session: 30 rows in 1 file\n"
            assert not has_in_files(path, b"secret")
            assert f"{path}: forgot 1 session" in wait_for_log(server, "forgot")
            done = run("rondo-store", path, "--forget", ONE)
            assert done.returncode == 1
            assert done.stderr == b'rondo-store: nothing matches {instance="secret"}\n'
            while "vm-1" not in ticks_of(path):
                pass
            done = run("rondo-store", path, "--forget", '{instance="vm-1"}')
            assert done.returncode == 0
            assert b"1 of them is connected: ticks from now on are new data\n" in done.stderr
            assert acknowledged(peer)
        assert not (path / "forget.json").exists()
        assert set(ticks_of(path)) == {"rondo-store"}


def test_the_command_works_with_a_running_pipe(path: Path, run: Run, begin_ms: int) -> None:
    """A pipe serves requests between two reads."""
    assert run("rondo-store", path, stdin=None, input=data(begin_ms, 9, instance="secret")).returncode == 0
    with started(path) as pipe:
        pieces = data(begin_ms, 9, end=False)
        assert pipe.stdin is not None
        command: subprocess.Popen[bytes] | None = None
        try:
            pipe.stdin.write(pieces[:-TICK])
            pipe.stdin.flush()
            while "vm-1" not in ticks_of(path):
                pass
            command = subprocess.Popen([*PROGRAM, path, "--forget", ONE], stderr=subprocess.PIPE)
            while not isinstance(RequestFile(Layout(path)).read(), Request):
                assert command.poll() is None
            pipe.stdin.write(pieces[-TICK:])
            pipe.stdin.flush()
            _, errors = command.communicate(timeout=PATIENCE_S)
            assert command.returncode == 0, errors
        finally:
            if command is not None:
                command.kill()
                command.wait()
        pipe.stdin.close()
        assert pipe.wait() == 0
    assert ticks_of(path) == {"vm-1": 9}
    assert not has(path, b"secret")


def test_the_next_writer_completes_an_interrupted_request(path: Path, run: Run, begin_ms: int) -> None:
    assert run("rondo-store", path, stdin=None, input=data(begin_ms, 9, instance="secret")).returncode == 0
    assert RequestFile(Layout(path)).leave(new_request(parse_forget(ONE)))
    done = run("rondo-store", path, stdin=None, input=data(begin_ms, 9))
    assert done.returncode == 0
    assert b"forgot 1 session" in done.stderr
    assert not has(path, b"secret")
    assert ticks_of(path) == {"vm-1": 9}
    assert "sessions" in json.loads(Layout(path).forget_json.read_bytes())  # the answer waits for a client
    done = run("rondo-store", path, "--forget", '{instance="vm-1"}')
    assert done.returncode == 0
    assert not Layout(path).forget_json.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "may mean every session"),
        ("{ }", "may mean every session"),
        ("", "a metric name or { is expected"),
        ('{instance=~".*"}', "may mean every session"),
        ('{instance!="a"}', "may mean every session"),
        ('{instance=""}', "may mean every session"),
        ('up{instance="a"}', "names a metric"),
        ('{__name__="up"}', "names a metric"),
    ],
)
def test_a_selector_of_all_sessions_or_of_series_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        parse_forget(text)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["{}"], 64, "argument --forget: '{}' may mean every session"),
        ([ONE, "--listen", "unix:/nowhere"], 64, "--forget takes no other flag"),
        ([ONE], 69, "no store there"),
    ],
)
def test_usage_errors_of_forget(path: Path, run: Run, arguments: list[str], status: int, text: str) -> None:
    done = run("rondo-store", path, "--forget", *arguments)
    assert done.returncode == status
    assert text.encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert not path.exists(), "nothing was made"


def test_the_command_succeeds_if_the_server_dies_before_its_answer(
    path: Path, begin_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The next process finds nothing left to do, which is no error."""
    with OpenStore(path) as store:
        Intake(store.keeper).feed(data(begin_ms, 9, instance="secret"))
        store.keeper.flush()
        assert RequestFile(Layout(path)).leave(new_request(parse_forget(ONE)))
        request = store.forgetter.next()
        assert request is not None
        store.forgetter.begin(request)()
    assert not has_in_files(path, b"secret")
    with caplog.at_level(logging.INFO):
        forget_sessions(str(path), parse_forget(ONE))
    assert "forgotten by another process" in caplog.text
    assert not Layout(path).forget_json.exists()


def has_in_files(path: Path, needle: bytes) -> bool:
    """Whether a file of frames, or the carry, contains it."""
    return any(needle in file.read_bytes() for file in path.rglob("*0*") if file.is_file())


def test_a_request_that_no_process_accepts_is_withdrawn(path: Path, clock: Clock) -> None:
    def sleep(seconds: float) -> None:
        assert isinstance(RequestFile(Layout(path)).read(), Request)
        clock.now += seconds

    with Folder(path), pytest.raises(StoreError, match="does not accept the request") as error:
        forget_sessions(str(path), parse_forget(ONE), clock, sleep)
    assert error.value.exit_code == EX_TEMPFAIL
    assert not Layout(path).forget_json.exists()


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_interrupted_command_leaves_an_accepted_request(path: Path, clock: Clock, is_begun: bool) -> None:
    """The store carries an accepted request out anyway."""

    def sleep(_: float) -> None:
        file = RequestFile(Layout(path))
        request = file.read()
        assert isinstance(request, Request)
        if is_begun:
            file.begin(request)
        raise KeyboardInterrupt

    with Folder(path), pytest.raises(KeyboardInterrupt):
        forget_sessions(str(path), parse_forget(ONE), clock, sleep)
    assert Layout(path).forget_json.exists() == is_begun


def test_two_commands_run_one_after_the_other(path: Path, clock: Clock) -> None:
    """The second waits until the first is answered; an answer without a client does not block it."""
    file = RequestFile(Layout(path))

    def sleep(_: float) -> None:
        request = file.read()
        assert isinstance(request, Request)
        asked.append(str(request.selector))
        file.answer(Answer(1, 1, 1))

    asked: list[str] = []
    with Folder(path):
        assert file.leave(new_request(parse_forget('{instance="first"}')))
        forget_sessions(str(path), parse_forget(ONE), clock, sleep)
    assert asked == ['{instance="first"}', ONE]
    assert not Layout(path).forget_json.exists()


def test_a_store_removed_meanwhile_is_not_made_again(path: Path, clock: Clock) -> None:
    with Folder(path), pytest.raises(StoreError, match="no store there"):
        forget_sessions(str(path), parse_forget(ONE), clock, lambda _: shutil.rmtree(path))
    assert not path.exists()


@pytest.mark.parametrize("junk", [b"", b"\0" * 80, b'{"selector": 1}'])
def test_a_truncated_request_is_removed(path: Path, clock: Clock, junk: bytes) -> None:
    with OpenStore(path):
        Layout(path).forget_json.write_bytes(junk)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    with pytest.raises(RondoError, match="nothing matches"):
        forget_sessions(str(path), parse_forget(ONE), clock, sleep)
    assert not Layout(path).forget_json.exists()
