"""Fixtures of rondo-attach's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attach.attach_host import Receiver, ServiceManager, needs_kvm_and_bpf


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A store's socket, on hosts where VMs can be created and watched."""
    needs_kvm_and_bpf()
    # Not in tmp_path, which only root may read: a watcher may run as nobody.
    with tempfile.TemporaryDirectory(prefix="rondo-attach-") as folder:
        Path(folder).chmod(0o755)
        receiver = Receiver(Path(folder, "store.sock"))
        try:
            yield receiver
        finally:
            receiver.close()


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    needs_kvm_and_bpf()
    with tempfile.TemporaryDirectory(prefix="rondo-attach-") as folder:
        Path(folder).chmod(0o755)
        manager = ServiceManager(Path(folder))
        try:
            yield manager
        finally:
            manager.close()
