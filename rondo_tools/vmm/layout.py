"""Where everything is: the one module that knows addresses.

Devices see offsets only. The built-in guest is assembled with these values
(``scripts/build_guest.py`` hands them to the assembler), so they stand nowhere else.
"""

from __future__ import annotations

# Guest-physical memory of the built-in guest. Below the code lies its stack, above the code its
# data and virtqueue, which are the guest's own business.
GUEST_STACK = 0x0001_0000  # the top: the stack grows down from here
GUEST_CODE = 0x0001_0000
GUEST_END = 0x0002_0000  # everything of the guest is below; the smallest memory it can run in

# Ports.
I8042_BASE = 0x060  # data 0x60, command and status 0x64
I8042_LENGTH = 5
COM1_BASE = 0x3F8
COM1_LENGTH = 8
WORKLOAD_BASE = 0x510
WORKLOAD_LENGTH = 4
POWER_BASE = 0x600  # ACPI sleep control, sleep status
POWER_LENGTH = 2

# MMIO, above any guest memory that is allowed.
VIRTIO_BLOCK_BASE = 0xD000_0000
VIRTIO_BLOCK_LENGTH = 0x1000

MEMORY_MAX = VIRTIO_BLOCK_BASE  # guest memory starts at 0 and must end below the devices

# Guest-physical memory of a PC that boots Linux; what is not named here is the kernel's.
PC_GDT = 0x0500
PC_BOOT_PARAMS = 0x7000  # the "zero page"
PC_PAGE_TABLES = 0x9000  # six pages
PC_COMMAND_LINE = 0x2_0000
PC_LOW_END = 0x9_F000  # usable memory below 1 MiB ends here, where a BIOS would keep its data
PC_ACPI = 0xE_0000  # where Linux looks for the root of the tables
PC_RESET = 0xF_FFF0  # where a processor starts after a reset: some guests jump there
PC_HIGH = 0x10_0000
PC_MEMORY_MIN = 32 << 20

LOCAL_APIC = 0xFEE0_0000  # these two are KVM's own, and fixed
IO_APIC = 0xFEC0_0000

CMOS_BASE = 0x070
CMOS_LENGTH = 2

COM1_IRQ = 4
VIRTIO_IRQ = 16  # of the first virtio device; the next ones follow, as do their registers
VIRTIO_STEP = VIRTIO_BLOCK_LENGTH
VIRTIO_MAX = 8  # the interrupt controller has 24 lines
