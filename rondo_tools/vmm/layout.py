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
ORDERS_BASE = 0x510
ORDERS_LENGTH = 4
POWER_BASE = 0x600  # ACPI sleep control, sleep status
POWER_LENGTH = 2

# MMIO, above any guest memory that is allowed.
VIRTIO_BLOCK_BASE = 0xD000_0000
VIRTIO_BLOCK_LENGTH = 0x1000

MEMORY_MAX = VIRTIO_BLOCK_BASE  # guest memory starts at 0 and must end below the devices
