"""The folder with rondo's files for a host: systemd units, dashboards, rules.

Strategy: an installer puts them into share/rondo of a prefix above this package: a virtual environment,
~/.local, /usr. So the nearest share/rondo above is the right one. In a checkout the folder is deploy/.
"""

from __future__ import annotations

from pathlib import Path

from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_PACKAGE = Path(__file__).parent
_MARK = "systemd/rondo-store.service"  # a folder without this file is another program's


def share_dir(package: Path = _PACKAGE) -> Path:
    """The folder for the package at `package`. Raises RondoError if there is none."""
    for folder in (package.parent / "deploy", *(above / "share/rondo" for above in package.parents)):
        if (folder / _MARK).is_file():
            return folder
    raise RondoError(
        f"no share/rondo above {package}: rondo was installed without it; take deploy/ from rondo's source",
        exit_code=EX_UNAVAILABLE,
    )
