"""The guest's CPUID leaves: KVM's, with the guest's topology."""

from __future__ import annotations

import pytest

from rondo_tools.vmm.accel.cpuid import Leaf, describe

INTEL = (0x756E6547, 0x6C65746E, 0x49656E69)
AMD = (0x68747541, 0x444D4163, 0x69746E65)


def offer(vendor: tuple[int, int, int], highest: int = 0x1F) -> list[Leaf]:
    return [
        Leaf(0, 0, 0, highest, *vendor),
        Leaf(1, 0, 0, 0x800F12, 0x0504_0800, 0x1, 1 << 28 | 0x5),
        Leaf(4, 0, 1, 0xFC00_4121, 1, 2, 3),
        Leaf(4, 1, 1, 0, 0, 0, 0),
        Leaf(0xB, 0, 1, 1, 2, 0x100, 7),
        Leaf(0xB, 1, 1, 4, 16, 0x201, 7),
        Leaf(0x1F, 0, 1, 1, 2, 0x100, 7),
        Leaf(0x4000_0000, 0, 0, 0x4000_0001, 0x4B4D564B, 0x564B4D56, 0x4D),
        Leaf(0x8000_0008, 0, 0, 0x3030, 0, 0x700F, 0),
        Leaf(0x8000_001E, 0, 0, 9, 0x109, 3, 0),
    ]


def leaves(
    vendor: tuple[int, int, int], number: int, cpus: int, *, deadline_timer: bool = True, highest: int = 0x1F
) -> dict[tuple[int, int], Leaf]:
    found = describe(offer(vendor, highest), number, cpus, deadline_timer=deadline_timer)
    assert len({leaf[:2] for leaf in found}) == len(found)
    return {(leaf.function, leaf.subleaf): leaf for leaf in found}


@pytest.mark.parametrize("vendor", [INTEL, AMD])
def test_there_is_a_hypervisor_and_its_leaves_stay(vendor: tuple[int, int, int]) -> None:
    found = leaves(vendor, 0, 1)
    assert found[1, 0].ecx == 1 << 31 | 1 << 24 | 1
    assert found[0x4000_0000, 0] == offer(vendor)[7]
    assert leaves(vendor, 0, 1, deadline_timer=False)[1, 0].ecx == 1 << 31 | 1


@pytest.mark.parametrize("vendor", [INTEL, AMD])
def test_each_processor_sees_its_number_and_the_count(vendor: tuple[int, int, int]) -> None:
    for number in range(5):
        found = leaves(vendor, number, 5)
        assert found[1, 0].ebx == number << 24 | 5 << 16 | 0x0800
        assert found[1, 0].edx == 1 << 28 | 5
        assert [found[0xB, sub].edx for sub in (0, 1)] == [number, number]
    assert found[0xB, 0][3:6] == (0, 1, 0x100)
    assert found[0xB, 1][3:6] == (3, 5, 0x201), "three bits of an APIC id tell five cores apart"
    assert (0x1F, 0) not in found
    assert found[4, 0].eax == 0x4121 & 0x3FFF | 4 << 26
    assert found[4, 1].eax == 0, "the end of the list of caches stays its end"


def test_one_processor_has_no_siblings() -> None:
    found = leaves(INTEL, 0, 1)
    assert found[1, 0].edx == 5
    assert found[0xB, 1][3:5] == (0, 1)


def test_the_core_count_is_in_each_vendors_leaf() -> None:
    amd, intel = leaves(AMD, 2, 4), leaves(INTEL, 2, 4)
    assert (amd[0x8000_0008, 0].ecx, intel[0x8000_0008, 0].ecx) == (3 | 2 << 12, 0x700F)
    assert amd[0x8000_001E, 0][3:6] == (2, 2, 0)
    assert intel[0x8000_001E, 0] == offer(INTEL)[9]


def test_a_processor_too_old_for_a_leaf_gets_none() -> None:
    assert (0xB, 0) not in leaves(AMD, 0, 2, highest=0xA)
