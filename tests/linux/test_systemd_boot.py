"""The units of deploy/systemd under a systemd that runs, on a kernel that can do all that they ask for.

VMs on KVM, a store, and a push to a Prometheus outside, with all their hardening: what a program does not
bear shows here and nowhere else. The store hangs on the way, and the machine is shut down under a VM.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import lab
import pytest
from fetch import Needs, folder
from needs import LAB_S, PATIENCE_S, must_have
from prometheus import Prometheus

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., lab.Result]

# As an operator would, step by step; the first line is what udev does elsewhere.
INSIDE = """
chgrp kvm /dev/kvm; chmod 660 /dev/kvm

cd /etc/systemd/system
mkdir rondo-push.service.d rondo-store.service.d rondo-vmm@last.service.d
cp /in/token.conf rondo-push.service.d/
echo secret >/etc/rondo/token; chmod 600 /etc/rondo/token
echo "RONDO_REMOTE_WRITE={url}" >/etc/rondo/push.env
# The store's patience with itself is made shorter; what a VM can see is looked at by one.
printf '[Service]\\nWatchdogSec=10\\n' >rondo-store.service.d/shorter.conf
cat >rondo-vmm@last.service.d/look.conf <<'END'
[Service]
ExecStartPre=sh -c '! ls /var/lib/rondo && ! grep eth0 /proc/self/net/dev && ! touch /usr/file && touch file'
END
echo "RONDO_VMM_OPTIONS=--duration 4s --linger 2m" >/etc/rondo/vmm/demo.conf
echo "RONDO_VMM_OPTIONS=--duration 10m" >/etc/rondo/vmm/last.conf
systemctl daemon-reload

systemctl enable --now rondo-store.socket rondo-store.service
systemctl start rondo-push.service rondo-vmm@demo.service

# A store that hangs is killed and started again; the VM does not end before all of it is stored.
kill -STOP $(systemctl show --property MainPID --value rondo-store.service)
while [ "$(systemctl show --property NRestarts --value rondo-store.service)" = 0 ]; do sleep 1; done
while systemctl is-active rondo-vmm@demo.service; do sleep 1; done

systemctl start rondo-vmm@last.service
for unit in rondo-store rondo-push rondo-vmm@last; do
    pid=$(systemctl show --property MainPID --value $unit.service)
    echo "$unit" $(grep -E '^(Uid|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status) \\
        memory $(cat "/sys/fs/cgroup$(cut -d : -f 3 /proc/$pid/cgroup)/memory.max")
done
sleep 2
# The end of this shuts all of it down.
"""


def packed(tree: Path, *, without: str = " ") -> bytes:
    """A tar of what a folder holds, all of it root's."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        return None if member.name.startswith(without) else member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(tree.iterdir()):
            tar.add(path, path.name, filter=owned)
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """What goes into the laboratory, less INSIDE."""
    try:
        systemd = folder("systemd", Needs.ALL, "util-linux")
    except LookupError as exc:
        must_have(f"no systemd: {exc}")
    command = ["make", "install-systemd", f"DESTDIR={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    return {
        "boot": (Path(__file__).parent / "boot_systemd.sh").read_bytes(),
        "systemd.tar": packed(systemd, without="usr/share"),
        "units.tar": packed(tmp_path),
        "token.conf": (ROOT / "deploy" / "systemd" / "token.conf").read_bytes(),
    }


def test_the_units_bear_their_hardening_and_nothing_is_lost(
    in_lab: Run, files: dict[str, bytes], prometheus: Prometheus
) -> None:
    url = prometheus.write_url.replace("127.0.0.1", "10.0.2.2")
    inside = INSIDE.replace("{url}", url).encode()
    result = in_lab("sh /in/boot", files | {"inside": inside}, timeout_s=LAB_S)
    said, journal = result.out["said"].decode(), result.out["journal"].decode()
    assert result.status == 0, (result.stderr, said)
    assert "inside.service: Failed" not in journal, said

    # Nothing was ignored, and everybody is confined.
    ours = "\n".join(line for line in journal.splitlines() if "rondo-" in line)
    assert not re.search(r"Unknown key|does not support|doesn't seem to support|status=2\d\d/", ours)
    confined = re.findall(r"^(rondo-\S+) Uid: (\d+) .*", said, re.MULTILINE)
    assert [name for name, uid in confined if uid != "0"] == ["rondo-store", "rondo-push", "rondo-vmm@last"]
    assert said.count("CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2") == 3
    assert re.findall(r" memory (\d+)$", said, re.MULTILINE) == [str(1 << 30), str(1 << 30), str(1 << 30)]

    # The store did hang, and of both VMs' lives every second arrived: through that, and through the shutdown.
    assert "rondo-store.service: Watchdog timeout" in journal
    sessions = [json.loads(line) for line in result.out["sessions"].decode().splitlines()]
    lives = {session["instance"]: session for session in sessions if session["instance"] in ("demo", "last")}
    assert {name: life["state"] for name, life in lives.items()} == {"demo": "poweroff", "last": "signal"}
    for name, life in lives.items():
        found = prometheus.samples(f'vmm_uptime_seconds{{instance="{name}",host="lab"}}')
        (pairs,) = found.values()
        assert len(pairs) == life["ticks"] > 0
        assert (pairs[0][0], pairs[-1][0]) == (life["first"], life["last"])
