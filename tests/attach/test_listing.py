"""The output of `rondo-attach list` for many VMs."""

from __future__ import annotations

import io

from rondo_tools.attach.counters.choose import Refusal
from rondo_tools.attach.listing import Listing, Vm, write_table


def test_a_thousand_refusals_are_a_few_lines() -> None:
    vms = tuple(Vm(n, f"vm-{n}", "-name", "qemu", 1.0, "bpf", "schedstat", "proc", "") for n in range(1000))
    refused = tuple(Refusal(f"{vm.name}, qmp", f"/run/{vm.name} does not exist", "", "blk_*") for vm in vms)
    out = io.StringIO()
    write_table(Listing(vms, (*refused, Refusal("bpf", "no", "CAP_BPF", "x"))), out)
    below = out.getvalue().splitlines()[1001:]
    assert below[0] == "vm-0, qmp: /run/vm-0 does not exist; missing: blk_*"
    assert below[5:] == [
        "bpf: no; missing: x; needs CAP_BPF",
        "qmp: 995 more like these; --format json has all",
    ]
