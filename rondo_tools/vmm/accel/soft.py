"""The soft accelerator: the unicorn CPU emulator, an optional extra, for machines without KVM.

Strategy: the emulator shares guest memory. Everything above it is one MMIO range, as under KVM, and
hooks for IN and OUT are the ports. A hook must return the value at once, so the handler is called from
it. The emulator has no other exits; three of its results stand for them: emulation that ended after a
HLT, and the errors "invalid instruction" and "unhandled exception", which without an IDT are a triple
fault.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import time
from typing import Any

from rondo_tools.errors import EX_UNAVAILABLE, VmError
from rondo_tools.vmm.accel.base import HLT, IO, MMIO, OTHER, SHUTDOWN, Handler

_TOP = 1 << 32  # the end of the address space
_NEVER = 0xFFFF_FFFF  # the address where emulation would end
_HLT_OPCODE = 0xF4


class Soft:
    """A machine under unicorn: `memory` from guest-physical address 0 on, and one vCPU.

    Raises VmError with exit status 69 if unicorn is not installed. `close` does not close the memory.
    """

    name = "soft"

    def __init__(self, memory: mmap.mmap) -> None:
        unicorn, x86 = _import_unicorn()
        # This reference keeps the mapping from being closed while the guest uses it.
        self._buffer: ctypes.Array[ctypes.c_char] | None = (ctypes.c_char * len(memory)).from_buffer(memory)
        try:
            engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
            engine.mem_map_ptr(0, len(memory), unicorn.UC_PROT_ALL, ctypes.addressof(self._buffer))
            self.vcpu = SoftVcpu(engine, memory, unicorn, x86)
        except unicorn.UcError as exc:
            raise VmError(f"unicorn cannot create the VM: {exc}") from exc

    def close(self) -> None:
        self.vcpu.close()
        self._buffer = None


def _import_unicorn() -> tuple[Any, Any]:
    """Import the optional package and its x86 constants."""
    try:
        return importlib.import_module("unicorn"), importlib.import_module("unicorn.x86_const")
    except ImportError as exc:
        raise VmError(
            f"--accel soft needs the unicorn package ({exc}): pip install 'rondo-tools[soft]'",
            exit_code=EX_UNAVAILABLE,
        ) from exc


class SoftVcpu:
    """The emulated CPU. Unicorn's 32-bit mode starts flat, protected and with interrupts disabled."""

    def __init__(self, engine: Any, memory: mmap.mmap, unicorn: Any, x86: Any) -> None:
        self._engine = engine
        self._memory = memory
        self._x86 = x86
        self._error = unicorn.UcError
        self._triple_faults = (unicorn.UC_ERR_INSN_INVALID, unicorn.UC_ERR_EXCEPTION)
        self._stopping = False
        self._handle: Handler | None = None
        self._raised: BaseException | None = None
        self._base = len(memory)
        engine.mmio_map(self._base, _TOP - self._base, self._mmio_read, None, self._mmio_write, None)
        for hook, instruction in (
            (self._port_read, x86.UC_X86_INS_IN),
            (self._port_write, x86.UC_X86_INS_OUT),
        ):
            engine.hook_add(unicorn.UC_HOOK_INSN, hook, None, 1, 0, instruction)

    def close(self) -> None:
        self._engine = None  # the binding frees the emulator with its last reference

    def enter_flat(self, rip: int, rsp: int) -> None:
        self._engine.reg_write(self._x86.UC_X86_REG_EIP, rip)
        self._engine.reg_write(self._x86.UC_X86_REG_ESP, rsp)

    def run(self, handle: Handler) -> None:
        self._handle = handle
        while not self._stopping:
            try:
                self._engine.emu_start(self._pc(), _NEVER)
            except self._error as exc:
                if exc.errno in self._triple_faults:
                    self._exit(SHUTDOWN)
                else:
                    self._exit(OTHER, False, 0, 0, b"", f"unicorn: {exc}")
            else:
                if not self._stopping and self._behind_hlt():
                    self._exit(HLT)
        if self._raised is not None:
            raise self._raised

    def stop(self) -> None:
        self._stopping = True
        if self._engine is not None:
            self._engine.emu_stop()

    def registers(self) -> str:
        names = ("eax", "ebx", "ecx", "edx", "esi", "edi", "esp", "ebp", "eip", "eflags", "cr0", "cr2")
        read, numbers = self._engine.reg_read, self._x86
        return " ".join(f"{name}={read(getattr(numbers, f'UC_X86_REG_{name.upper()}')):#x}" for name in names)

    def _pc(self) -> int:
        return int(self._engine.reg_read(self._x86.UC_X86_REG_EIP))

    def _behind_hlt(self) -> bool:
        at = self._pc() - 1
        return 0 <= at < len(self._memory) and self._memory[at] == _HLT_OPCODE

    def _exit(
        self,
        reason: str,
        write: bool = False,
        address: int = 0,
        size: int = 0,
        data: bytes = b"",
        detail: str = "",
    ) -> bytes:
        """Call the handler. Its exceptions must not propagate through the emulator's C code."""
        stopped = time.perf_counter_ns()
        if self._stopping:  # a stop in a hook takes effect some instructions later
            return bytes(size)
        assert self._handle is not None
        try:
            return self._handle(stopped, reason, write, address, size, 1, data, detail)
        except BaseException as exc:
            self._raised = exc
            self.stop()
            return bytes(size)

    # Unicorn's binding requires these signatures: it counts the parameters.

    def _port_read(self, _engine: object, port: int, size: int, _data: object) -> int:
        return int.from_bytes(self._exit(IO, False, port, size), "little")

    def _port_write(self, _engine: object, port: int, size: int, value: int, _data: object) -> None:
        self._exit(IO, True, port, size, _low(value, size))

    def _mmio_read(self, _engine: object, offset: int, size: int, _data: object) -> int:
        return int.from_bytes(self._exit(MMIO, False, self._base + offset, size), "little")

    def _mmio_write(self, _engine: object, offset: int, size: int, value: int, _data: object) -> None:
        self._exit(MMIO, True, self._base + offset, size, _low(value, size))


def _low(value: int, size: int) -> bytes:
    """The low `size` bytes of a register."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")
