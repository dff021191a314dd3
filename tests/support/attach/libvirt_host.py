"""A real libvirtd, unprivileged and with its own folders, and KVM domains that use a disk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from devtools import exit_loop
from devtools.programs import Needs, fetch, folder
from tests.support.attach import disk_guest
from tests.support.attach.attach_host import NOBODY, needs_kvm_and_bpf
from tests.support.needs import PATIENCE_S, must_have

READS, WRITES = 5, 7
BLOCK = {
    'blk_requests_total{op="read"}': READS,
    'blk_requests_total{op="write"}': WRITES,
    'blk_requests_total{op="flush"}': 1,
    'blk_bytes_total{direction="read"}': READS * 512,
    'blk_bytes_total{direction="write"}': WRITES * 512,
}
TAP = "tap0"
_NOBODY_ID = 65534
PANIC = b"\x66\xba\x05\x05\xb0\x01\xee"  # mov dx, 0x505; mov al, 1; out dx, al: pvpanic
_PACKAGES = ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "python3-libvirt")

# In its own namespaces: the user nobody may open devices, libvirt's data are at its default paths, and there
# is a tap.
_NAMESPACES = """
mount -t tmpfs tmpfs "$1/dev"
for device in kvm net/tun; do
    if [ -e "/dev/$device" ]; then
        node="$1/dev/$(basename "$device")"
        mknod -m 666 "$node" c $(printf '%d %d' $(stat -c '0x%t 0x%T' "/dev/$device"))
        mount --bind "$node" "/dev/$device"
    fi
done
mount --bind "$2/usr/share" /usr/share
if [ -e /dev/net/tun ]; then "$3" -c "$4"; fi
shift 4
exec "$@"
"""
_MAKE_TAP = f"""
import fcntl, os, socket, struct
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"{TAP}", 0x1002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI
fcntl.ioctl(tap, 0x400454CC, {_NOBODY_ID})  # TUNSETOWNER
fcntl.ioctl(tap, 0x400454CB, 1)  # TUNSETPERSIST
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"{TAP}", 0x41))  # SIOCSIFFLAGS: up, running
"""
_SEND = f"""
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
    tap.bind(("{TAP}", 0))
    for _ in range(int(sys.argv[1])):
        tap.send(bytes(6) + bytes(6) + b"\\x08\\x00" + bytes(46))
"""

_DOMAIN = """
<domain type='kvm'>
  <name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:package version="27.0.0"/><nova:name>{nova_name}</nova:name>
    </nova:instance>
  </metadata>
  <os><type arch='x86_64' machine='pc'>hvm</type><loader type='rom'>{folder}/{bios}</loader></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>{on_reboot}</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{folder}/{name}.disk'/><target dev='hda' bus='ide'/>
    </disk>
    <serial type='unix'><source mode='bind' path='{folder}/{name}.serial'/></serial>
    {interface}<panic model='isa'/><memballoon model='none'/><controller type='usb' model='none'/>
  </devices>
</domain>
"""


# This NIC accepts frames without a driver in the guest.
_INTERFACE = f"""
    <interface type='ethernet'><target dev='{TAP}' managed='no'/><model type='i82559er'/></interface>
"""


class Domain:
    """A transient domain; its guest uses its disk, waits for `go_on`, and powers off."""

    def __init__(self, libvirt: Libvirt, name: str) -> None:
        self._libvirt, self.name = libvirt, name
        self.uuid = libvirt.virsh("domuuid", name).strip()
        (self.pid,) = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if self.uuid in _read(path) and f"guest={name}," in _read(path)
        ]

    def stats(self) -> dict[str, int]:
        """The output of virsh domstats."""
        lines = self._libvirt.virsh("domstats", "--raw", self.name).splitlines()
        fields = (line.strip().partition("=") for line in lines if "=" in line)
        return {name: int(value) for name, _, value in fields if value.isdigit()}

    def go_on(self) -> None:
        with socket.socket(socket.AF_UNIX) as serial:
            serial.connect(str(self._libvirt.folder / f"{self.name}.serial"))
            serial.sendall(b"x")
            serial.settimeout(PATIENCE_S)
            serial.recv(1)  # QEMU closes it after reading

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


class Libvirt:
    """libvirtd as a process of the user nobody; `environment` is for its Python module and its socket."""

    def __init__(self, folder_: Path) -> None:
        try:
            self._root = folder(_PACKAGES[0], Needs.MISSING, *_PACKAGES[1:])
            self._emulator = fetch("qemu-system-x86_64")
        except LookupError as exc:
            must_have(str(exc))
        self.folder = folder_
        libraries = [self._root / one / "x86_64-linux-gnu" for one in ("usr/lib", "lib")]
        self._drivers = libraries[0] / "libvirt" / "connection-driver"
        self._libvirtd, self._virsh = self._root / "usr/sbin/libvirtd", self._root / "usr/bin/virsh"
        if not self._libvirtd.exists() or not self._virsh.exists():
            must_have("libvirt is installed on this machine; the tests want to fetch their own")
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(self._root / "usr/lib/python3/dist-packages"),
        }
        check = [sys.executable, "-c", "import libvirt"]
        if subprocess.run(check, env=self.environment, capture_output=True, timeout=PATIENCE_S).returncode:
            must_have("python3-libvirt is for another version of Python")
        for path in ("dev", "run", "home/.config/libvirt"):
            (folder_ / path).mkdir(parents=True)
        (folder_ / "home/.config/libvirt/qemu.conf").write_text(
            'stdio_handler = "file"\nsecurity_driver = "none"\n'
        )
        (folder_ / "libvirtd.conf").write_text('log_outputs = "3:stderr"\n')
        for one in (folder_, *folder_.rglob("*")):
            os.chown(one, _NOBODY_ID, _NOBODY_ID)
        self.socket = folder_ / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **self.environment,
            "HOME": str(self.folder / "home"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "LIBVIRT_DRIVER_DIR": str(self._drivers),
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--net", "sh", "-ec", _NAMESPACES, "sh"),
                    *(str(self.folder), str(self._root), sys.executable, _MAKE_TAP),
                    *(*NOBODY, str(self._libvirtd)),
                    *("--timeout", "0", "--config", str(self.folder / "libvirtd.conf")),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while self._run_virsh("uri").returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End libvirtd; its QEMUs continue."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def send(self, frames: int) -> None:
        """Send frames into the tap."""
        assert self._process is not None
        enter = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", sys.executable, "-c", _SEND]
        subprocess.run([*enter, str(frames)], check=True, timeout=PATIENCE_S)

    def virsh(self, *arguments: str) -> str:
        done = self._run_virsh(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run_virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._virsh), "--connect", self.uri, *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )

    @contextmanager
    def domain(
        self,
        name: str,
        *flags: str,
        nova_name: str = "",
        code: bytes | None = None,
        on_reboot: str = "restart",
        has_tap: bool = False,
    ) -> Iterator[Domain]:
        """A started domain; its guest runs `code`, or uses its disk."""
        image = disk_guest.bios(READS, WRITES) if code is None else exit_loop.bios_of(code + b"\xf4")
        (self.folder / f"{name}.bios").write_bytes(image)
        disk = self.folder / f"{name}.disk"
        disk.write_bytes(bytes(1 << 20))
        os.chown(disk, _NOBODY_ID, _NOBODY_ID)
        xml = self.folder / f"{name}.xml"
        fields = {"name": name, "folder": self.folder, "bios": f"{name}.bios", "emulator": self._emulator}
        fields |= {"nova_name": nova_name or f"server {name}", "on_reboot": on_reboot}
        xml.write_text(_DOMAIN.format(interface=_INTERFACE if has_tap else "", **fields))
        self.virsh("create", str(xml), *flags)
        domain = Domain(self, name)
        try:
            yield domain
        finally:
            domain.close()


@contextmanager
def real_libvirtd() -> Iterator[Libvirt]:
    needs_kvm_and_bpf()
    # A short path, because of the sockets.
    with tempfile.TemporaryDirectory(prefix="rondo-lv-") as name:
        Path(name).chmod(0o755)
        libvirt = Libvirt(Path(name))
        libvirt.start()
        try:
            yield libvirt
        finally:
            libvirt.stop()
