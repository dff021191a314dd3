"""The address map: the only module that knows addresses.

Devices see offsets only. ``scripts/build_guest.py`` passes these values to the assembler of the built-in
guest, so they are defined nowhere else.
"""

from __future__ import annotations

# Guest-physical memory of the built-in guest: its stack is below the code, its data and virtqueue are
# above.
GUEST_STACK = 0x0001_0000  # the top: the stack grows down from here
GUEST_CODE = 0x0001_0000
GUEST_END = 0x0002_0000  # the end of its data; the smallest memory it can run in

# Ports.
I8042_BASE = 0x060  # data 0x60, command and status 0x64
I8042_LENGTH = 5
COM1_BASE = 0x3F8
COM1_LENGTH = 8
WORKLOAD_BASE = 0x510
WORKLOAD_LENGTH = 4
POWER_BASE = 0x600  # ACPI sleep control, sleep status
POWER_LENGTH = 2

# MMIO, above the largest guest memory.
VIRTIO_BLOCK_BASE = 0xD000_0000
VIRTIO_BLOCK_LENGTH = 0x1000

MEMORY_MAX = VIRTIO_BLOCK_BASE  # guest memory starts at 0 and ends below the devices

# Guest-physical memory of a PC that boots Linux; the kernel owns everything else.
PC_GDT = 0x0500
PC_BOOT_PARAMS = 0x7000  # the "zero page"
PC_PAGE_TABLES = 0x9000  # six pages
PC_COMMAND_LINE = 0x2_0000
PC_LOW_END = 0x9_F000  # the end of usable memory below 1 MiB; a BIOS keeps its data above
PC_ACPI = 0xE_0000  # where Linux searches for the RSDP
PC_RESET = 0xF_FFF0  # the reset vector: some guests jump there
PC_HIGH = 0x10_0000
PC_MEMORY_MIN = 32 << 20

LOCAL_APIC = 0xFEE0_0000  # KVM fixes these two
IO_APIC = 0xFEC0_0000

CMOS_BASE = 0x070
CMOS_LENGTH = 2

COM1_IRQ = 4
VIRTIO_IRQ = 16  # of the first virtio device; the others follow, like their registers
VIRTIO_STEP = VIRTIO_BLOCK_LENGTH
VIRTIO_MAX = 8  # the interrupt controller has 24 lines
