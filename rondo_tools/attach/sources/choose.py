"""Which adapters the command line asks for. Each is optional, and loaded only if it is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import argh

from rondo_tools import command
from rondo_tools.attach.naming import PathTemplate
from rondo_tools.errors import EX_UNAVAILABLE, RondoError, UsageError

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapter, Adapters

F = TypeVar("F", bound=Callable[..., None])

LIBVIRT = "qemu:///system"


class MissingError(RondoError):
    """A module that Python lacks: why, and what is needed."""

    exit_code = EX_UNAVAILABLE

    def __init__(self, why: str, needs: str) -> None:
        super().__init__(f"{why}: install {needs}")
        self.why, self.needs = why, needs


def parse_uri(text: str) -> str:
    """The URI of a libvirt of this host. Raises UsageError."""
    try:
        scheme, host, path, _, _ = urlsplit(text)
    except ValueError:
        scheme, host, path = "", "", ""
    if not scheme or not path.startswith("/"):
        raise UsageError(f"{text!r} is no URI of libvirt: write one such as {LIBVIRT}")
    if host:
        raise UsageError(
            f"{text!r} is another host's libvirt, and its VMs are not here: run rondo-attach there"
        )
    return text


def adapter_flags(function: F) -> F:
    """The flags of a command that may ask adapters: what `Wanted` is made of."""
    flags = (
        argh.arg(
            "--qmp",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "QEMU: ask for block metrics and the end's reason over the QMP socket at this path, such as "
                "/run/qmp/{name}.sock; a socket for rondo-attach alone, fields as in --name"
            ),
        ),
        argh.arg(
            "--firecracker",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "Firecracker: read block and network metrics from its metrics file or FIFO at this path, "
                "such as /srv/jailer/firecracker/{name}/root/metrics.json; fields as in --name"
            ),
        ),
        argh.arg(
            "--flush",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "with --firecracker: ask for new metrics each interval, over the API socket at this path, "
                "such as /srv/jailer/firecracker/{name}/root/run/firecracker.socket; else they come every "
                "60 seconds"
            ),
        ),
        argh.arg(
            "--cloud-hypervisor",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "Cloud Hypervisor: ask for block and network metrics over the API socket at this path, such "
                "as /run/user/1000/cloud-hypervisor.{pid}; fields as in --name"
            ),
        ),
        argh.arg(
            "--microsandbox",
            type=str,
            metavar="FOLDER",
            help=(
                "microsandbox: ask msb for the bytes of disks and networks of the sandboxes of this folder, "
                "such as /home/ci/.microsandbox; as its owner, or as root"
            ),
        ),
        argh.arg(
            "--libvirt",
            type=command.typed(parse_uri),
            nargs="?",
            const=LIBVIRT,
            metavar="URI",
            help=(
                "libvirt: ask it for block and network metrics, the end's reason, and the labels uuid and "
                f"nova_name, over a read-only connection (without URI: {LIBVIRT}); needs python3-libvirt"
            ),
        ),
        argh.arg(
            "--taps",
            help=(
                "any VMM: bytes and packets of the tap devices that it has open (needs CAP_SYS_PTRACE and "
                "CAP_DAC_READ_SEARCH)"
            ),
        ),
    )
    for flag in reversed(flags):  # as a pile of decorators, the last is the first
        function = flag(function)
    return function


class Wanted(NamedTuple):
    """The flags."""

    qmp: PathTemplate | None = None
    firecracker: PathTemplate | None = None
    flush: PathTemplate | None = None
    cloud_hypervisor: PathTemplate | None = None
    libvirt: str | None = None
    taps: bool = False
    microsandbox: str | None = None

    def checked(self) -> Wanted:
        """Raises UsageError for flags that mean nothing together."""
        if self.flush is not None and self.firecracker is None:
            raise UsageError("--flush needs --firecracker, the file that Firecracker writes its metrics to")
        return self


def open_adapters(interval_s: float, wanted: Wanted, *, only_looks: bool = False) -> Adapters | None:
    """The adapters in their thread; None if none is wanted, which then costs nothing.

    Who `only_looks` may do so beside a watcher, and takes nothing away from it. Raises MissingError if Python
    lacks a module that is needed.
    """
    if not any(wanted):
        return None
    # asyncio takes a while to load.
    from rondo_tools.attach.sources.adapters import Adapters

    chosen: list[Adapter] = []
    if wanted.qmp is not None:
        from rondo_tools.attach.sources.qmp import QmpAdapter

        chosen.append(QmpAdapter(wanted.qmp))
    if wanted.firecracker is not None:
        from rondo_tools.attach.sources.firecracker import FirecrackerAdapter

        chosen.append(FirecrackerAdapter(wanted.firecracker, wanted.flush, takes_lines=not only_looks))
    if wanted.cloud_hypervisor is not None:
        from rondo_tools.attach.sources.cloud_hypervisor import CloudHypervisorAdapter

        chosen.append(CloudHypervisorAdapter(wanted.cloud_hypervisor))
    if wanted.libvirt is not None:
        from rondo_tools.attach.sources.libvirt import LibvirtAdapter

        chosen.append(LibvirtAdapter(wanted.libvirt, _load_libvirt(), warns=not only_looks))
    if wanted.microsandbox is not None:
        from rondo_tools.attach.sources.microsandbox import MicrosandboxAdapter

        chosen.append(MicrosandboxAdapter(wanted.microsandbox, warns=not only_looks))
    if wanted.taps:
        from rondo_tools.attach.sources.taps import TapAdapter

        chosen.append(TapAdapter())
    return Adapters(chosen, interval_s, warns=not only_looks)


def _load_libvirt() -> Any:
    """The distribution's module, which is on no package index as a wheel. Raises MissingError."""
    try:
        return importlib.import_module("libvirt")
    except ImportError as exc:
        raise MissingError(
            f"--libvirt needs libvirt's module for Python ({exc})",
            "the distribution's python3-libvirt, and rondo in a venv made with --system-site-packages",
        ) from None
