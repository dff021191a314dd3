"""Messages to systemd, and descriptors from it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from rondo_tools.sd_notify import Notifier, handed_over
from tests.support.needs import PATIENCE_S

_CHILD = """
import os, sys
from rondo_tools.sd_notify import handed_over
os.dup2(int(sys.argv[1]), 4)
os.dup2(int(sys.argv[1]), 3)
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", **dict(a.split("=") for a in sys.argv[2:])}
print(handed_over(environment), environment, os.get_inheritable(3))
"""


def test_a_descriptor_is_stored_and_removed_by_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Path(os.devnull).open() as file:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert notifier.is_heard
        notifier.store("a-1", file.fileno())
        message, (fd,), _, _ = socket.recv_fds(manager, 100, 2)
        assert message == b"FDSTORE=1\nFDPOLL=0\nFDNAME=a-1"
        assert os.path.sameopenfile(fd, file.fileno())
        os.close(fd)
        notifier.remove("a-1")
        assert manager.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=a-1"


def test_without_a_service_manager_nothing_is_sent() -> None:
    notifier = Notifier({})
    assert not notifier.is_heard
    notifier.store("a", 0)
    notifier.ready()


def test_descriptors_are_handed_over_by_name() -> None:
    def child(*variables: str) -> str:
        with Path(os.devnull).open() as file:
            fd = os.dup(file.fileno())
        try:
            command = [sys.executable, "-c", _CHILD, str(fd), *variables]
            done = subprocess.run(
                command, pass_fds=[fd], capture_output=True, text=True, timeout=PATIENCE_S, check=True
            )
        finally:
            os.close(fd)
        return done.stdout

    assert child("LISTEN_FDNAMES=a:b") == "[('a', 3), ('b', 4)] {} False\n"
    assert child() == "[('', 3), ('', 4)] {} False\n"
    assert child("LISTEN_PID=1", "LISTEN_FDNAMES=a:b") == "[] {} True\n"  # a parent's


def test_no_descriptors_are_none() -> None:
    assert handed_over({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) == []
