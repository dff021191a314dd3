"""Kata Containers' id of a pod's sandbox, from the cgroup of its VMM. No I/O.

Strategy: the names of Kata's cgroups depend on runtime, version, cgroup driver and `sandbox_cgroup_only`.
Most identify Kata:

    .../kata_ID                              Go runtime, cgroupfs; below /kata with sandbox_cgroup_only=false
    .../kata_POD.slice:cri-containerd:ID     Go runtime up to 2.3 where the container engine uses systemd
    /kata_overhead/ID                        sandbox_cgroup_only=false: Go runtime from 2.3, runtime-rs
    /kata_sandboxed_pod/ID                   runtime-rs, without a path from the container engine
    kata-overhead.slice/runtime-rs-ID.scope  runtime-rs from 3.20, systemd, sandbox_cgroup_only=false

Otherwise the cgroup is the container engine's, `cri-containerd-ID.scope`, `crio-ID.scope` or ID alone, like
that of any container, also of one that runs a VMM by itself (KubeVirt). Then the VMM's command line must have
the same ID: Kata's VMMs have their sockets in `/run/vc/vm/ID`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_OWN = re.compile(r"kata_(?:.*:)?([^:]+)")
_OWN_FOLDERS = ("kata_overhead", "kata_sandboxed_pod")
_OWN_SCOPE = re.compile(r"runtime-rs-(.+)\.scope")
_OWN_SLICE = "kata-overhead.slice"
_CONTAINER = re.compile(r"(?:.*[:-])?([0-9a-f]{64})(?:\.scope)?")


def sandbox_id(cgroup_paths: Sequence[str], arguments: Sequence[str]) -> str:
    """The id; "" if the VMM is not Kata's. `arguments` are those of its command line."""
    for path in cgroup_paths:
        folder, leaf = ("", *path.split("/"))[-2:]
        if folder in _OWN_FOLDERS:
            return leaf
        own = _OWN_SCOPE.fullmatch(leaf) if folder == _OWN_SLICE else _OWN.fullmatch(leaf)
        if own:
            return own[1]
        container = _CONTAINER.fullmatch(leaf)
        if container and any(container[1] in argument for argument in arguments):
            return container[1]
    return ""
