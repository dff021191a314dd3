"""The adapters of the command line. Each is optional, and its module is loaded only if it is used."""

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
    """A Python module is missing: the reason, and what is needed."""

    exit_code = EX_UNAVAILABLE

    def __init__(self, why: str, needs: str) -> None:
        super().__init__(f"{why}: install {needs}")
        self.why, self.needs = why, needs


def parse_uri(text: str) -> str:
    """The URI of this host's libvirt. Raises UsageError."""
    try:
        scheme, host, path, _, _ = urlsplit(text)
    except ValueError:
        scheme, host, path = "", "", ""
    if not scheme or not path.startswith("/"):
        raise UsageError(f"{text!r} is not a URI of libvirt: write one such as {LIBVIRT}")
    if host:
        raise UsageError(f"{text!r} is another host's libvirt: run rondo-attach on that host")
    return text


def adapter_flags(function: F) -> F:
    """Add the flags of adapters to a command: the fields of `Wanted`."""
    flags = (
        argh.arg(
            "--qmp",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "QEMU: block metrics and the end reason, over the QMP socket at this path, such as "
                "/run/qmp/{name}.sock; the socket must have no other client; fields as in --name"
            ),
        ),
        argh.arg(
            "--firecracker",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "Firecracker: block and network metrics, from its metrics file or FIFO at this path, "
                "such as /srv/jailer/firecracker/{name}/root/metrics.json; fields as in --name"
            ),
        ),
        argh.arg(
            "--flush",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "with --firecracker: request new metrics each interval, over the API socket at this path, "
                "such as /srv/jailer/firecracker/{name}/root/run/firecracker.socket; without it they come "
                "every 60 seconds"
            ),
        ),
        argh.arg(
            "--cloud-hypervisor",
            type=command.typed(PathTemplate),
            metavar="PATH",
            help=(
                "Cloud Hypervisor: block and network metrics, over the API socket at this path, such "
                "as /run/user/1000/cloud-hypervisor.{pid}; fields as in --name"
            ),
        ),
        argh.arg(
            "--microsandbox",
            type=str,
            metavar="FOLDER",
            help=(
                "microsandbox: bytes of disks and networks, from msb, for the sandboxes of this folder, "
                "such as /home/ci/.microsandbox; run as its owner, or as root"
            ),
        ),
        argh.arg(
            "--libvirt",
            type=command.typed(parse_uri),
            nargs="?",
            const=LIBVIRT,
            metavar="URI",
            help=(
                "libvirt: block and network metrics, the end reason, and the labels uuid and "
                f"nova_name, over a read-only connection (without URI: {LIBVIRT}); needs python3-libvirt"
            ),
        ),
        argh.arg(
            "--taps",
            help=(
                "any VMM: bytes and packets of its open tap devices (needs CAP_SYS_PTRACE and "
                "CAP_DAC_READ_SEARCH)"
            ),
        ),
    )
    for flag in reversed(flags):  # as with stacked decorators, the last is applied first
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
        """The flags. Raises UsageError for a combination without meaning."""
        if self.flush is not None and self.firecracker is None:
            raise UsageError("--flush needs --firecracker, the path of Firecracker's metrics file")
        return self


def open_adapters(interval_s: float, wanted: Wanted, *, only_looks: bool = False) -> Adapters | None:
    """The adapters in their thread; None if no flag asks for one.

    `only_looks`: take no data away from a watcher that runs at the same time. Raises MissingError if a Python
    module is missing.
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
    """The distribution's module: package indexes have no wheel of it. Raises MissingError."""
    try:
        return importlib.import_module("libvirt")
    except ImportError as exc:
        raise MissingError(
            f"--libvirt needs libvirt's module for Python ({exc})",
            "the distribution's python3-libvirt, and rondo in a venv made with --system-site-packages",
        ) from None
