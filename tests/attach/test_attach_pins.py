"""rondo-attach --pin: counters in a bpf file system, over kills and restarts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.attach.attach_host import (
    ATTACH,
    NOBODY_WITH_BPF,
    ROOT,
    Receiver,
    Watcher,
    needs_kvm_and_bpf,
    small_guest,
)
from tests.support.needs import PATIENCE_S, must_have

MOUNT = 'mount -t bpf bpf "$1" && chmod 1777 "$1" && echo mounted && exec sleep infinity'


class Node:
    """A bpf file system in a mount namespace of its own, and a folder for the state."""

    def __init__(self, folder: Path, mount_pid: int) -> None:
        self.bpf = folder / "bpf" / "rondo-attach"
        self.state = folder / "state"
        self.inside = ["nsenter", f"--mount=/proc/{mount_pid}/ns/mnt"]

    @contextmanager
    def watcher(self, *flags: str, pin: Path | None = None) -> Iterator[Watcher]:
        """A watcher that is killed at the end."""
        where = (f"--pin={pin or self.bpf}", f"--state={self.state}")
        watcher = Watcher(*where, *flags, wrapper=[*self.inside, *NOBODY_WITH_BPF])
        try:
            yield watcher
        finally:
            watcher.close()

    @contextmanager
    def watching(self, *flags: str) -> Iterator[Watcher]:
        with self.watcher(*flags) as watcher:
            watcher.wait_for("watching; exits are counted by bpf")
            yield watcher

    def run(self, *command: str | Path) -> str:
        done = subprocess.run([*self.inside, *command], check=True, capture_output=True, text=True)
        return done.stdout

    def pinned(self) -> list[str]:
        return sorted(self.run("ls", self.bpf).split())


@pytest.fixture
def node() -> Iterator[Node]:
    needs_kvm_and_bpf()
    with tempfile.TemporaryDirectory(prefix="rondo-attach-") as name:
        folder = Path(name)
        (folder / "bpf").mkdir()
        for path in (folder, folder / "bpf"):
            path.chmod(0o777)
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", MOUNT, "sh", folder / "bpf"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            with holder.stdout:
                if holder.stdout.readline() != "mounted\n":
                    must_have("a bpf file system cannot be mounted")
            yield Node(folder, holder.pid)
        finally:
            holder.kill()
            holder.wait(PATIENCE_S)


def test_a_restart_loses_no_exit_and_no_session(receiver: Receiver, node: Node) -> None:
    """Killed under load; one VM begins and one ends while it is away, and another one continues."""
    flags = ("--output", receiver.address, "--match", "name=*pin-*")
    busy = "run 50000"
    with ExitStack() as opened:
        stays, ends = (opened.enter_context(small_guest(name=f"pin-{name}")) for name in ("stays", "ends"))
        with node.watching(*flags):
            assert [name.partition("-")[0] for name in node.pinned()] == [
                "exits",
                "lost",
                "threads",
                "wakeups",
            ]
            for guest, name in ((stays, "pin-stays"), (ends, "pin-ends")):
                guest.do("make", "run 1000")
                receiver.wait(name, ticks=1)
                guest.begin(busy)
        ends.finish(busy)
        ends.quit()
        born = opened.enter_context(small_guest(name="pin-born"))
        born.do("make", "run 777")
        before = node.pinned()
        with node.watching(*flags) as watcher:
            receiver.wait("pin-ends", ended=1)
            receiver.wait("pin-born", ticks=1)
            stays.finish(busy)
            for guest in (stays, born):
                guest.quit()
            receiver.wait("pin-stays", ended=1)
            receiver.wait("pin-born", ended=1)
            assert watcher.stop() == 0
    for name, exits in (("stays", 51_000), ("ends", 51_000), ("born", 777)):
        (session,) = receiver.of(f"pin-{name}")
        assert session.exits()["io"] == exits
    assert "attached" not in receiver.of("pin-stays")[0].labels
    assert node.pinned() == before


def test_two_watchers_never_share_a_folder(receiver: Receiver, node: Node) -> None:
    """Even if each has a network namespace of its own, like pods."""
    flags = ("--output", receiver.address, "--match", "name=none")
    with node.watching(*flags):
        before = node.pinned()
        with node.watcher(*flags) as second:
            assert second.wait() == 69
            assert "another rondo-attach uses this folder" in second.log
        assert node.pinned() == before
    with node.watching(*flags):  # it was killed, and the folder is free
        assert node.pinned() == before


def _without_the_exits_program(node: Node) -> None:
    node.run("rm", *(node.bpf / name for name in node.pinned() if name.startswith("exits")))


def _of_another_release(node: Node) -> None:
    for name in node.pinned():
        node.run("mv", node.bpf / name, node.bpf / f"{name.partition('-')[0]}-00000000")


def _of_another_map(node: Node) -> None:
    """The pins were removed by hand, and the state was not."""
    node.run("rm", *(node.bpf / name for name in node.pinned()))


@pytest.mark.parametrize("harm", [_without_the_exits_program, _of_another_release, _of_another_map])
def test_pins_that_do_not_fit_are_removed(
    harm: Callable[[Node], None], receiver: Receiver, node: Node
) -> None:
    """A running VM is late then; pins of others stay."""
    flags = ("--output", receiver.address, "--match", "name=*stale")
    with small_guest(name="stale") as guest:
        with node.watching(*flags):
            guest.do("make", "run 30")
            receiver.wait("stale", ticks=1)
            good = node.pinned()
        harm(node)
        node.run(sys.executable, "-c", PIN_ANOTHER, node.bpf / "theirs")
        with node.watching(*flags) as watcher:
            guest.do("run 4")  # by which it is found
            watcher.wait_for("stale begins")
            guest.do("run 5")
            guest.quit()
            _, second = receiver.wait("stale", ended=1)
        assert node.pinned() == sorted([*good, "theirs"])
    assert second.labels["attached"] == "late"
    assert second.exits()["io"] == 5


PIN_ANOTHER = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from rondo_tools.attach.counters import bpf_syscall as bpf
bpf.pin(bpf.create_map(bpf.ARRAY, 4, 8, 1, "theirs"), sys.argv[1])
"""


@pytest.mark.parametrize(
    ("path", "why"), [("state", "Operation not permitted"), ("file/x", "Not a directory")]
)
def test_the_message_names_a_folder_that_cannot_have_pins(
    path: str, why: str, receiver: Receiver, node: Node
) -> None:
    folder = node.state.parent
    (folder / "file").touch()
    with node.watcher("--output", receiver.address, pin=folder / path) as watcher:
        assert watcher.wait() == 69
    assert f"--pin {folder / path}: {why}" in watcher.log
    assert "bpf file system" in watcher.log
    assert "Traceback" not in watcher.log


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--output", "unix:x", "--pin", "x"], "--state"),
        (["--output", "unix:x", "--state", "x"], "--pin"),
        (["--text", "--pin", "x", "--state", "y"], "--output"),
        (["--pid", "1", "--output", "unix:x", "--pin", "x", "--state", "y"], "no --pid"),
    ],
)
def test_the_message_names_a_missing_flag(flags: list[str], why: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RUNTIME_DIRECTORY"}
    done = subprocess.run(
        [*ATTACH, *flags], capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    assert done.returncode == 64
    assert why in done.stderr
