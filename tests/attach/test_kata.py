"""A VM in a cgroup of Kata Containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.attach.attach_host import Receiver, ServiceManager, small_guest
from tests.support.needs import must_have


@pytest.fixture
def sandbox() -> Iterator[Path]:
    """A cgroup named like Kata's; its last part is the sandbox's id."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(path) for _, path, kind, *_ in mounts if kind == "cgroup2"]
    folder = next(
        (root / "kata_overhead" / (uuid4().hex * 2) for root in roots if os.access(root, os.W_OK)), None
    )
    if folder is None:
        must_have("no cgroup can be made")
    try:
        folder.mkdir(parents=True)
    except OSError as exc:
        must_have(f"no cgroup can be made: {exc}")
    try:
        yield folder
    finally:
        folder.rmdir()
        with suppress(OSError):  # another cgroup is in it
            folder.parent.rmdir()


def test_the_sandbox_is_a_label_also_after_a_restart(
    sandbox: Path, receiver: Receiver, manager: ServiceManager
) -> None:
    """A session keeps its labels, whatever happens to the process."""
    home = sandbox.parent.parent / "cgroup.procs"
    labels = {"vmm": "qemu", "sandbox_id": sandbox.name}
    with small_guest(name="in-kata") as guest:
        (sandbox / "cgroup.procs").write_text(str(guest.pid))
        try:
            with manager.started("--output", receiver.address):
                guest.do("make", "run 3")
                (session,) = receiver.wait("in-kata", ticks=1)
                assert session.labels == labels
        finally:
            home.write_text(str(guest.pid))
        with manager.started("--output", receiver.address):
            guest.quit()
            (session,) = receiver.wait("in-kata", ended=1)
    assert session.labels == labels
