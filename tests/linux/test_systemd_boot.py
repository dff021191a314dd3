"""The units of deploy/systemd under a running systemd, on a kernel with all features that they use.

VMs on KVM, a store, and a push to a Prometheus outside, with all their hardening: settings that break a
program show only here. The store hangs meanwhile, and the machine is shut down while a VM runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from devtools import lab
from devtools.receivers.prometheus import Prometheus
from tests.support.linux.systemd_boot import SYSTEMD, boot

Run = Callable[..., lab.Result]

# The steps of an operator; the first line replaces udev.
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


def test_the_units_run_hardened_and_lose_nothing(in_lab: Run, prometheus: Prometheus, tmp_path: Path) -> None:
    url = prometheus.write_url.replace("127.0.0.1", "10.0.2.2")
    files = {"token.conf": (SYSTEMD / "token.conf").read_bytes()}
    booted = boot(in_lab, tmp_path, INSIDE.replace("{url}", url), files)

    # All services are confined.
    confined = re.findall(r"^(rondo-\S+) Uid: (\d+) .*", booted.output, re.MULTILINE)
    assert [name for name, uid in confined if uid != "0"] == ["rondo-store", "rondo-push", "rondo-vmm@last"]
    assert booted.output.count("CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2") == 3
    assert re.findall(r" memory (\d+)$", booted.output, re.MULTILINE) == [str(1 << 30)] * 3

    # The store did hang, and every second of both VMs arrived, despite that and the shutdown.
    assert "rondo-store.service: Watchdog timeout" in booted.journal
    for name, reason in (("demo", "poweroff"), ("last", "signal")):
        session = booted.of(name)
        assert session.end is not None
        assert session.end.reason == reason
        found = prometheus.samples(f'vmm_uptime_seconds{{instance="{name}",host="lab"}}')
        (pairs,) = found.values()
        assert [t_ms for t_ms, _ in pairs] == session.rows().t_ms.tolist()
