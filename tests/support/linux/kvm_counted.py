"""In the laboratory: run a VMM, and write KVM's own statistics of its VM, from debugfs, after its end.

    kvm_counted.py COMMAND...       JSON on standard output; the exit status is the command's

The VM must be the only one; a child process of the command may have it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

KVM = Path("/sys/kernel/debug/kvm")


def main() -> int:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while not (found := list(KVM.glob("*-*"))):
        if process.poll() is not None:
            return process.returncode or 1
        time.sleep(0.05)
    (vm,) = found
    # An open file keeps the statistics of an ended VM.
    with (vm / "guest_mode").open():
        status = process.wait()
        counters = {path.name: path.read_text().strip() for path in vm.glob("*_exits")}
    json.dump({name: int(value) for name, value in counters.items()}, sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main())
