"""Which adapters the command line asks for. Each is optional, and loaded only if it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rondo_tools.attach.naming import PathTemplate

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapter, Adapters

QMP_HELP = (
    "QEMU: ask for block metrics and the end's reason over the QMP socket at this path, such as "
    "/run/qmp/{name}.sock; a socket for rondo-attach alone, fields as in --name"
)


TAPS_HELP = "any VMM: bytes and packets of the tap devices that it has open (needs CAP_SYS_PTRACE)"


class Wanted(NamedTuple):
    """The flags."""

    qmp: PathTemplate | None = None
    taps: bool = False


def open_adapters(interval_s: float, wanted: Wanted) -> Adapters | None:
    """The adapters in their thread; None if none is wanted, which then costs nothing."""
    if not any(wanted):
        return None
    # asyncio takes a while to load.
    from rondo_tools.attach.sources.adapters import Adapters

    chosen: list[Adapter] = []
    if wanted.qmp is not None:
        from rondo_tools.attach.sources.qmp import QmpAdapter

        chosen.append(QmpAdapter(wanted.qmp))
    if wanted.taps:
        from rondo_tools.attach.sources.taps import TapAdapter

        chosen.append(TapAdapter())
    return Adapters(chosen, interval_s)
