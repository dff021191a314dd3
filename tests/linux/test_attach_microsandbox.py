"""rondo-attach beside a real sandbox of microsandbox: its exits, and the bytes that `msb` counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from devtools import ROOT, lab
from rondo_tools.store.reader import Store
from tests.support.linux.lab_programs import image_files, msb_files
from tests.support.needs import LAB_S, must_have

Run = Callable[..., lab.Result]

WRITTEN = 3 << 20
# msb needs extended attributes, certificates, and shared memory. It executes itself to read its capabilities,
# with a deadline that is too short under emulation: so run it once before, and retry.
COMMAND = f"""
mount -t debugfs debug /sys/kernel/debug
truncate -s 96M /tmp/disk && mke2fs -F /tmp/disk >/dev/null
mkdir /home /dev/shm && mount -t ext4 -o loop,user_xattr /tmp/disk /home && mount -t tmpfs shm /dev/shm
export HOME=/home SSL_CERT_FILE=/in/certificates LD_LIBRARY_PATH=/in/msb/lib PATH=/in/msb/bin:$PATH
msb load -i /in/image.tar || exit 1

rondo-store /tmp/vmm_metrics --listen unix:/tmp/store & store=$!
rondo-attach --verbose --output unix:/tmp/store --microsandbox /home/.microsandbox 2>/out/said & attach=$!
until grep -q watching /out/said; do sleep 0.2; done
for number in 1 2 3 4 5 6; do
    name=sandbox-$number
    msb --version && msb --version
    python3 /in/kvm_counted.py msb run --quiet --pull never --name $name -m 256M busybox -- sh -c \\
        'dd if=/dev/zero of=/root/file bs=1M count={WRITTEN >> 20}; sync; sleep 6' >/out/debugfs && break
    name=
done 2>&1
[ "$name" ] || {{ echo "msb did not start a sandbox"; exit 75; }}
echo $name >/out/name
until grep -q "$name ends" /out/said; do sleep 0.2; done
msb metrics $name --format json >/out/metrics
kill $attach && wait $attach && kill $store && wait $store || exit 1
cp -r /tmp/vmm_metrics /out
"""


def test_a_sandbox_has_its_exits_and_msbs_bytes(in_lab: Run, tmp_path: Path) -> None:
    try:
        files = msb_files() | image_files()
    except LookupError as exc:
        must_have(f"no microsandbox: {exc}")
    files["kvm_counted.py"] = (ROOT / "tests" / "support" / "linux" / "kvm_counted.py").read_bytes()
    files["certificates"] = Path(certifi.where()).read_bytes()
    result = in_lab(COMMAND, files, timeout_s=LAB_S)
    if result.status == 75:
        pytest.skip(f"msb's own deadline passed each time\n{result.stdout.decode()[-500:]}")
    assert result.status == 0, (result.stderr, result.out.get("said"))
    for name, data in result.out.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    name = result.out["name"].decode().strip()
    (session,) = [one for one in Store(tmp_path / "vmm_metrics").sessions() if one.instance == name]
    assert dict(session.header.labels) == {"vmm": "libkrun"}
    last = dict(zip(map(str, session.header.series), session.rows().values[-1].tolist(), strict=True))

    kvm = json.loads(result.out["debugfs"])
    assert last['vcpu_exits_total{reason="io"}'] == kvm["io_exits"]
    assert last['vcpu_exits_total{reason="mmio"}'] == kvm["mmio_exits"] > 0

    own = json.loads(result.out["metrics"])
    assert own["state"] == "exited"
    for series, field in (
        ('blk_bytes_total{direction="read"}', "disk_read_bytes"),
        ('blk_bytes_total{direction="write"}', "disk_write_bytes"),
        ('net_bytes_total{direction="receive"}', "net_rx_bytes"),
        ('net_bytes_total{direction="transmit"}', "net_tx_bytes"),
    ):
        assert last[series] <= own[field], series  # the last line may have come too late
    assert last['blk_bytes_total{direction="write"}'] >= WRITTEN
    assert not any(series.startswith("blk_requests") for series in last)  # which it does not count
    print({series: value for series, value in last.items() if "bytes_total" in series}, own)
