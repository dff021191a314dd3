"""The VMM's demo on a KVM that boots Linux: it detects that, and catches the guest's whole life."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from devtools import lab
from devtools.guest.disk import check_disk
from tests.support.needs import LAB_S

Run = Callable[..., lab.Result]

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 3

# A checkout after setup, without make, which the laboratory lacks.
COMMAND = f"""
cp -r /rondo /tmp/rondo && cp -r /in/scripts /tmp/rondo && cd /tmp/rondo
export PYTHONPATH=/tmp/rondo VMM_DURATION={SECONDS}
python3 scripts/vmm_demo.py bench; status=$?
cp build/vmm-demo-linux.img /out; exit $status
"""


def test_auto_is_linux_if_kvm_boots_it(in_lab: Run, guest: Path, tmp_path: Path) -> None:
    scripts = {str(path.relative_to(ROOT)): path.read_bytes() for path in (ROOT / "scripts").rglob("*.py")}
    # The demo's probe is too short for an emulated, busy machine.
    hasty = scripts["scripts/devtools/guest/choice.py"]
    scripts["scripts/devtools/guest/choice.py"] = hasty.replace(b"\nPROBE_S = 15.0", b"\nPROBE_S = 250.0")
    assert scripts["scripts/devtools/guest/choice.py"] != hasty
    result = in_lab(COMMAND, scripts, timeout_s=LAB_S)
    output = result.stdout.decode() + result.stderr.decode(errors="replace")
    assert "Guest: linux, because this machine's KVM boots it" in output
    found = re.search(r"^linux +3 +[\d.]+ s +(\d+) +(\d+) +(\d+)$", output, re.MULTILINE)
    assert found, output
    seconds, in_store, received = map(int, found.groups())
    assert in_store == received
    # A VMM that is delayed for a second has no tick for it, and the demo reports that.
    assert result.status == (0 if received == seconds else 1), output
    assert ("captured 100.0%" in output) == (received == seconds)
    image = tmp_path / "disk"
    image.write_bytes(result.out["vmm-demo-linux.img"])
    assert "ext2 with" in check_disk("linux", image)
    print(output)
