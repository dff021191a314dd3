"""Fixtures of rondo-attach's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attach_host import Receiver, needs_kvm_and_bpf


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A store's socket, where VMs can be made and watched."""
    needs_kvm_and_bpf()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # a watcher may be nobody
    receiver = Receiver(tmp_path / "store.sock")
    yield receiver
    receiver.close()
