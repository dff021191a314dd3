"""Checks that process ids here are the host's, which KVM's events have."""

from __future__ import annotations

import os

from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_HOST = 0xEFFF_FFFC  # PROC_PID_INIT_INO of the kernel


def check_namespace() -> None:
    """Raises RondoError outside the host's PID namespace, where KVM's process ids are other processes."""
    if os.stat("/proc/self/ns/pid").st_ino != _HOST:
        raise RondoError(
            "this is not the host's PID namespace, so process ids in KVM's events mean nothing here; "
            "in a container: --pid=host, or hostPID",
            exit_code=EX_UNAVAILABLE,
        )
