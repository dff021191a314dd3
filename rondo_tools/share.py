"""The folder of files for a host that come with rondo: systemd units, dashboards, rules.

Strategy: an installer puts them into share/rondo of the prefix that this package is below, however deep: of a
virtual environment, of ~/.local, of /usr. So the nearest one above is ours. In a checkout it is deploy/.
"""

from __future__ import annotations

from pathlib import Path

from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_PACKAGE = Path(__file__).parent
_MARK = "systemd/rondo-store.service"  # a folder without it is somebody else's


def share_dir(package: Path = _PACKAGE) -> Path:
    """The folder, for the package in another. Raises RondoError if there is none."""
    for folder in (package.parent / "deploy", *(above / "share/rondo" for above in package.parents)):
        if (folder / _MARK).is_file():
            return folder
    raise RondoError(
        f"no share/rondo above {package}: rondo was installed without it; take deploy/ from rondo's source",
        exit_code=EX_UNAVAILABLE,
    )
