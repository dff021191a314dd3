"""Creates a fresh Debian in a folder, and runs commands in it as on a separate machine.

Strategy: mmdebstrap makes the root. Each command has its own mount and process namespaces, so mounts in the
root are gone when the command ends, for whatever reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from devtools.programs import KEYRING, debian_mirror, fetch
from tests.support.needs import PATIENCE_S, must_have

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",  # also for nobody
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def make_root(path: Path, suite: str, packages: Sequence[str]) -> None:
    """Make a root with a suite's minimum, apt and some packages, as an archive if the path ends with .tar.

    Skips the test if that is not possible.
    """
    if os.geteuid() != 0:
        must_have("to make a root of Debian needs root")
    try:
        mmdebstrap = fetch("mmdebstrap")
        sources = f"deb [signed-by={KEYRING}] {debian_mirror()} {suite} main"
    except (LookupError, OSError, subprocess.SubprocessError) as exc:
        must_have(f"no root of Debian to be had: {exc}")
    command = [str(mmdebstrap), "--mode=root", "--variant=apt", "--skip=cleanup/apt/lists"]
    command += ["--aptopt=Acquire::Check-Valid-Until false"]  # a mirror may be weeks behind
    command += ["--dpkgopt=force-unsafe-io"]  # the root need not survive a power cut
    command += [f"--include={','.join(packages)}", suite, str(path), sources]
    made = subprocess.run(
        command,
        env=os.environ | {"TMPDIR": str(path.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    if made.returncode != 0:
        must_have(f"mmdebstrap made no root of {suite}:\n{made.stderr[-2000:]}")


def run_in(root: Path, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """Run a command in the root, with its own /proc. `stdout` has its output and its errors."""
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
    return subprocess.run(
        [*namespaces, "chroot", f"--userspec={user}", root, *command],
        env=_ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * PATIENCE_S,
    )


def succeed_in(root: Path, *command: str, user: str = "root") -> str:
    """Like run_in, for a command that must succeed. Returns its output."""
    ran = run_in(root, *command, user=user)
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.returncode}\n{ran.stdout[-4000:]}"
    return ran.stdout
