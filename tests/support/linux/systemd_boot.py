"""A real systemd in the laboratory, with rondo's units as `make install-systemd` installs them."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from devtools import lab
from devtools.programs import Needs, folder
from rondo_tools.store.reader import Session, Store
from tests.support.needs import LAB_S, PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parents[3]
SYSTEMD = ROOT / "deploy" / "systemd"


class Booted(NamedTuple):
    """The result of a boot: the output of the script, the journal, and the sessions of the store."""

    output: str
    journal: str
    sessions: list[Session]

    def of(self, instance: str) -> Session:
        """The one session of an instance."""
        (session,) = [one for one in self.sessions if one.instance == instance]
        return session


def boot(
    in_lab: Callable[..., lab.Result], tmp_path: Path, inside: str, files: dict[str, bytes] | None = None
) -> Booted:
    """Boot, run the shell script `inside` as root with `files` in /in, and shut down when it has ended."""
    try:
        systemd = folder("systemd", Needs.ALL, "util-linux")
    except LookupError as exc:
        must_have(f"no systemd: {exc}")
    tree = tmp_path / "tree"
    command = ["make", "install-systemd", f"DESTDIR={tree}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    brought = {
        "boot": (Path(__file__).parent / "boot_systemd.sh").read_bytes(),
        "systemd.tar": _packed(systemd, without="usr/share"),
        "units.tar": _packed(tree),
        "inside": inside.encode(),
    }
    result = in_lab("sh /in/boot", brought | (files or {}), timeout_s=LAB_S)
    output, journal = result.out["said"].decode(), result.out["journal"].decode()
    assert result.status == 0, (result.stderr, output)
    assert "inside.service: Failed" not in journal, (output, journal)
    # systemd ignored nothing in the units.
    ours = "\n".join(line for line in journal.splitlines() if "rondo-" in line)
    assert not re.search(r"Unknown key|does not support|doesn't seem to support|status=2\d\d/", ours)
    for name, data in result.out.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return Booted(output, journal, list(Store(tmp_path / "vmm_metrics").sessions()))


def _packed(tree: Path, *, without: str = " ") -> bytes:
    """A tar of a folder's content, owned by root."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        return None if member.name.startswith(without) else member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(tree.iterdir()):
            tar.add(path, path.name, filter=owned)
    return buffer.getvalue()
