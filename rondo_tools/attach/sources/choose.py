"""Which adapters the command line asks for. Each is optional, and loaded only if it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rondo_tools.attach.naming import PathTemplate

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapter, Adapters

QMP_HELP = (
    "QEMU: ask for block metrics and the end's reason over the QMP socket at this path, such as "
    "/run/qmp/{name}.sock; a socket for rondo-attach alone, fields as in --name"
)


def open_adapters(interval_s: float, qmp: PathTemplate | None) -> Adapters | None:
    """The adapters in their thread; None if none is wanted, which then costs nothing."""
    chosen: list[Adapter] = []
    if qmp is not None:
        from rondo_tools.attach.sources.qmp import QmpAdapter

        chosen.append(QmpAdapter(qmp))
    if not chosen:
        return None
    from rondo_tools.attach.sources.adapters import Adapters  # asyncio takes a while to load

    return Adapters(chosen, interval_s)
