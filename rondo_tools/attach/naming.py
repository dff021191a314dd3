"""A VM's name and its VMM, from the VMM's command line and cgroup. No I/O.

Strategy: the program's file name identifies the VMM; each known VMM has flags that name a VM. Without such a
flag the cgroup may have the name (libvirt and systemd-machined put a VM into `machine-NAME.scope`); else the
name is `pid-N`. A command line is the VMM's own claim: bounded, made printable, and used for names only.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rondo_tools.attach.kata import sandbox_id
from rondo_tools.errors import UsageError
from rondo_tools.printable import printable
from rondo_tools.stream import MAX_TEXT

RONDO_VMM = "rondo-vmm"
UNKNOWN = "unknown"

# Patterns of programs' file names; the first match decides.
_VMMS = (
    (re.compile(r"qemu(-kvm|-system-[\w-]+)?|kvm"), "qemu"),
    (re.compile(r"firecracker(-v[\w.-]+)?"), "firecracker"),
    (re.compile(r"cloud-hypervisor(-static)?"), "cloud-hypervisor"),
    (re.compile(r"crosvm"), "crosvm"),
    (re.compile(r"msb|microsandbox|krunvm|libkrun\w*"), "libkrun"),
    (re.compile(r"kvmtool|lkvm(-static)?"), "kvmtool"),
    (re.compile(r"VBoxHeadless|VirtualBoxVM"), "virtualbox"),
    (re.compile(r"rondo-vmm"), RONDO_VMM),
)
_NAME_FLAGS = {
    "qemu": ("-name", "--name"),
    "firecracker": ("--id",),
    "crosvm": ("--name",),
    "libkrun": ("--name",),
    "kvmtool": ("--name", "-n"),
    RONDO_VMM: ("--instance",),
}
_UUID_FLAGS = {"qemu": ("-uuid", "--uuid"), "crosvm": (), "libkrun": ()}
_SCRIPTED = re.compile(r"python[\d.]*")  # whose first argument is the program
_MACHINE = re.compile(r"machine-(.+)\.scope")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")

FIELDS = ("name", "pid", "vmm", "uuid", "cgroup", "sandbox_id", "host")


class Identity(NamedTuple):
    """`name_from` is the source of the name, for messages."""

    name: str
    name_from: str
    vmm: str
    uuid: str = ""
    cgroup: str = ""  # the last part of its path
    sandbox_id: str = ""  # of Kata Containers


def identify(pid: int, command_line: bytes, cgroups: bytes, comm: str) -> Identity:
    """The identity of a VMM's process; `comm` is its name if the command line is empty."""
    arguments = [_text(argument) for argument in command_line.split(b"\0")]
    program, arguments = _program(arguments)
    vmm = _vmm(program or comm)
    uuid = _flag(arguments, _UUID_FLAGS.get(vmm, ()))[1]
    leaf = _cgroup_leaf(cgroups)
    name, name_from = "", ""
    flag, value = _flag(arguments, _NAME_FLAGS.get(vmm, ()))
    if value:
        name, name_from = _qemu_name(value) if vmm == "qemu" else value, flag
    if not name and (machine := _MACHINE.fullmatch(leaf)):
        name, name_from = _unescape(machine[1]), "cgroup"
    if not name:
        name, name_from = f"pid-{pid}", "process id"
    sandbox = sandbox_id(_cgroup_paths(cgroups), arguments)
    return Identity(bounded(name), name_from, vmm, bounded(uuid), bounded(leaf), bounded(sandbox))


def bounded(text: str, end: str = "") -> str:
    """Untrusted text as a label's value: one printable line, at most MAX_TEXT bytes, that ends with `end`."""
    most = MAX_TEXT - len(end.encode())
    return printable(text[:MAX_TEXT]).encode()[:most].decode(errors="ignore") + end


def fields(identity: Identity, pid: int) -> dict[str, str]:
    """The values of a template's fields."""
    return {
        "name": identity.name,
        "pid": str(pid),
        "vmm": identity.vmm,
        "uuid": identity.uuid,
        "cgroup": identity.cgroup,
        "sandbox_id": identity.sandbox_id,
        "host": os.uname().nodename,
    }


class Template:
    """``--name``: text with fields in braces, such as ``{name}`` or ``{host}-{pid}``."""

    _needs_field = True

    def __init__(self, text: str) -> None:
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as exc:
            raise UsageError(f"{text!r}: {exc}") from None
        for _, field, spec, conversion in parts:
            if field is not None and (field not in FIELDS or spec or conversion):
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise UsageError(f"{text!r}: {{{field}}} is not one of {known}")
        if self._needs_field and not any(field for _, field, _, _ in parts):
            raise UsageError(
                f"{text!r} has no field, so all VMs would have one name: add {{name}} or {{pid}}"
            )
        self._parts = parts

    def fill(self, values: Mapping[str, str]) -> str:
        """The name; "" if all fields are empty."""
        if not any(values[field] for _, field, _, _ in self._parts if field):
            return ""
        filled = (text + (values[field] if field else "") for text, field, _, _ in self._parts)
        return bounded("".join(filled))


class PathTemplate(Template):
    """A path with fields in braces, such as ``/run/qmp/{name}.sock``.

    A VM's owner chooses its name: it may name a file, but must not lead to another folder.
    """

    _needs_field = False  # with --pid there is one VM

    def path(self, values: Mapping[str, str]) -> str:
        """Raises ValueError if a field cannot be part of a path."""
        for _, field, _, _ in self._parts:
            if field and (not values[field] or "/" in values[field] or values[field] in (".", "..")):
                raise ValueError(f"its {field}, {values[field]!r}, cannot be the name of a file")
        return "".join(text + (values[field] if field else "") for text, field, _, _ in self._parts)


def _program(arguments: list[str]) -> tuple[str, list[str]]:
    """The file name of the program, and its arguments. The interpreter of a script is skipped."""
    program = arguments[0].rsplit("/", 1)[-1] if arguments else ""
    if _SCRIPTED.fullmatch(program):
        for at, argument in enumerate(arguments[1:], 1):
            if not argument.startswith("-"):
                return argument.rsplit("/", 1)[-1], arguments[at + 1 :]
    return program, arguments[1:]


def _vmm(program: str) -> str:
    for pattern, vmm in _VMMS:
        if pattern.fullmatch(program):
            return vmm
    return bounded(program[:64]) or UNKNOWN


def _flag(arguments: Sequence[str], flags: Sequence[str]) -> tuple[str, str]:
    """The first of `flags` that is present, and its value: `--flag value` or `--flag=value`."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in flags:
            if equals:
                return name, value
            if at + 1 < len(arguments):
                return name, arguments[at + 1]
    return "", ""


def _qemu_name(value: str) -> str:
    """The name in ``-name web-1,process=x`` or ``-name guest=web-1,debug-threads=on``; ``,,`` is a comma."""
    parts = value.replace(",,", "\0").split(",")
    named = [part.removeprefix("guest=") for part in parts if part.startswith("guest=")]
    first = [part for part in parts[:1] if "=" not in part]
    return (*named, *first, "")[0].replace("\0", ",")


def _cgroup_leaf(cgroups: bytes) -> str:
    """The last part of the path of the version 2 cgroup, or of systemd's; from /proc/PID/cgroup."""
    for line in cgroups.splitlines():
        number, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if number == b"0" or controllers == b"name=systemd":
            return _text(path.rsplit(b"/", 1)[-1])
    return ""


def _cgroup_paths(cgroups: bytes) -> list[str]:
    return [_text(line.split(b":", 2)[-1]) for line in cgroups.splitlines()]


def _unescape(text: str) -> str:
    """Undo systemd's escapes: ``qemu\\x2d1\\x2dweb`` is ``qemu-1-web``."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
