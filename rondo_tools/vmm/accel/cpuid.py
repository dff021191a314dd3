"""The guest's CPUID leaves: KVM's supported leaves, corrected for the guest's topology. Pure.

Strategy: KVM reports the host's topology (the number of processors and the caller's number), so the
leaves with a topology are replaced. Each vCPU is a core of one thread, all in one package. All other
leaves stay as KVM offers them, including its own (kvmclock).

Sources: AMD64 Architecture Programmer's Manual 3, appendix E; Intel SDM 2A, CPUID;
Documentation/virt/kvm/x86/cpuid.rst of Linux.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

INDEXED = 1  # a flag: the leaf has sub-leaves

# Leaf 1
_TSC_DEADLINE = 1 << 24  # of ECX
_HYPERVISOR = 1 << 31  # of ECX; without it a guest does not use kvmclock
_MANY = 1 << 28  # of EDX: more than one processor in the package

_THREADS, _CORES = 1 << 8, 2 << 8  # levels in leaf 0xB
_AMD = (0x68747541, 0x6F677948)  # EBX of leaf 0: "Auth", and "Hygo" of its licensee


class Leaf(NamedTuple):
    """One leaf; registers are unsigned, 32 bits."""

    function: int
    subleaf: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def describe(offered: Iterable[Leaf], number: int, cpus: int, *, deadline_timer: bool) -> list[Leaf]:
    """The leaves of vCPU `number` of `cpus`, whose APIC id is its number."""
    offered = list(offered)
    highest = max((leaf.eax for leaf in offered if leaf.function == 0), default=0)
    amd = any(leaf.function == 0 and leaf.ebx in _AMD for leaf in offered)
    bits = (cpus - 1).bit_length()  # of an APIC id
    leaves = []
    for leaf in offered:
        match leaf.function:
            case 0x1:
                ecx = leaf.ecx & ~_TSC_DEADLINE | _HYPERVISOR | (_TSC_DEADLINE if deadline_timer else 0)
                edx = leaf.edx & ~_MANY | (_MANY if cpus > 1 else 0)
                ebx = leaf.ebx & 0xFFFF | min(cpus, 0xFF) << 16 | number << 24
                leaves.append(leaf._replace(ebx=ebx, ecx=ecx, edx=edx))
            case 0x4 if leaf.eax & 0x1F:  # a cache: each core has its own
                leaves.append(leaf._replace(eax=leaf.eax & 0x3FFF | min(cpus - 1, 0x3F) << 26))
            case 0xB | 0x1F:
                pass
            case 0x8000_0008 if amd:
                leaves.append(leaf._replace(ecx=min(cpus - 1, 0xFF) | bits << 12))
            case 0x8000_001E if amd:
                leaves.append(leaf._replace(eax=number, ebx=number & 0xFF, ecx=0))
            case _:
                leaves.append(leaf)
    if highest >= 0xB:
        leaves.append(Leaf(0xB, 0, INDEXED, 0, 1, _THREADS, number))
        leaves.append(Leaf(0xB, 1, INDEXED, bits, cpus, 1 | _CORES, number))
    return leaves
