"""The KVM accelerator: hardware virtualization through ioctls on /dev/kvm, without C code of our own.

Strategy: call the C library's `ioctl` through ctypes, which releases the GIL while the guest runs and
returns on EINTR (fcntl.ioctl retries from Python 3.14 on). A real-time signal stops a guest that does
not exit by itself. The vCPU's thread blocks the signal, and KVM unblocks it during KVM_RUN: whenever it
is sent, it either ends KVM_RUN or prevents the next one, so no stop is lost. The signal is never
delivered, only drained, and needs no handler.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import mmap
import os
import signal
import stat
import threading
import time

from rondo_tools.errors import EX_UNAVAILABLE, VmError
from rondo_tools.vmm.accel import kvm_abi as abi
from rondo_tools.vmm.accel.base import HLT, IO, MMIO, OTHER, SHUTDOWN, Handler

# Three pages that Intel processors need for real mode; below the BIOS, above guest memory.
TSS_ADDRESS = 0xFFFB_D000
KICK = signal.SIGRTMIN

# A signal ended KVM_RUN; or another vCPU has started this one.
_NO_EXIT = (errno.EINTR, errno.EAGAIN)

_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_ioctl.restype = ctypes.c_int

# The same function without argtypes, which cost 0.2 µs a call. The arguments of KVM_RUN fit into C's int.
_run = ctypes.CDLL(None, use_errno=True).ioctl


def call(fd: int, request: int, argument: int | ctypes.Structure | ctypes.c_uint64 = 0) -> int:
    """One ioctl; `argument` is an integer or an object in memory. Raises OSError."""
    if not isinstance(argument, int):
        argument = ctypes.addressof(argument)  # the caller's reference keeps it alive
    result = _ioctl(fd, request, argument)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


class Kvm:
    """A KVM virtual machine: `memory` from guest-physical address 0 on, and `cpus` vCPUs.

    Raises VmError, with exit status 69 if KVM is not available. `close` does not close the memory.
    """

    name = "kvm"

    def __init__(self, memory: mmap.mmap, *, device: str = "/dev/kvm", cpus: int = 1) -> None:
        self._fd = -1
        self.vcpus: list[KvmVcpu] = []
        # This reference keeps the mapping from being closed while the guest uses it.
        self._buffer: ctypes.Array[ctypes.c_char] | None = None
        system = _open(device)
        try:
            version = call(system, abi.GET_API_VERSION)
            if version != abi.API_VERSION:
                raise VmError(
                    f"{device} has KVM API {version}, not {abi.API_VERSION}", exit_code=EX_UNAVAILABLE
                )
            self._fd = call(system, abi.CREATE_VM)
            call(self._fd, abi.SET_TSS_ADDR, TSS_ADDRESS)
            self._prepare(system, cpus)
            self._buffer = (ctypes.c_char * len(memory)).from_buffer(memory)
            region = abi.MemoryRegion(memory_size=len(memory), userspace_addr=ctypes.addressof(self._buffer))
            call(self._fd, abi.SET_USER_MEMORY_REGION, region)
            page_size = call(system, abi.GET_VCPU_MMAP_SIZE)
            for number in range(cpus):
                self.vcpus.append(self._make_vcpu(number, page_size))
        except OSError as exc:
            self.close()
            raise VmError(f"{device}: KVM cannot create the VM: {exc.strerror}") from exc
        except BaseException:
            self.close()
            raise
        finally:
            os.close(system)

    @property
    def vcpu(self) -> KvmVcpu:
        """The first vCPU."""
        return self.vcpus[0]

    def _prepare(self, system: int, cpus: int) -> None:
        """Set up the VM before its memory and vCPUs; `system` is the open device."""

    def _make_vcpu(self, number: int, page_size: int) -> KvmVcpu:
        return KvmVcpu(call(self._fd, abi.CREATE_VCPU, number), page_size)

    def close(self) -> None:
        for vcpu in self.vcpus:
            vcpu.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._buffer = None


def _open(device: str) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        what = (
            f"there is no {device}: load kvm_intel or kvm_amd, or give the container the device; "
            "--accel soft needs none"
        )
        raise VmError(what, exit_code=EX_UNAVAILABLE) from exc
    except PermissionError as exc:
        raise VmError(_denied(device), exit_code=EX_UNAVAILABLE) from exc
    except OSError as exc:
        what = f"{device} cannot be opened: {exc.strerror}; --accel soft needs no KVM"
        raise VmError(what, exit_code=EX_UNAVAILABLE) from exc


def _denied(device: str) -> str:
    """The message for a missing permission: its likely cause and the remedy."""
    try:
        seen = os.stat(device)
    except OSError as exc:
        return f"{device} may not be opened, and its permissions cannot be read: {exc.strerror}"
    try:
        group = grp.getgrgid(seen.st_gid).gr_name
    except KeyError:
        group = str(seen.st_gid)
    mode = stat.S_IMODE(seen.st_mode)
    message = f"{device} may not be opened (owner uid {seen.st_uid}, group {group}, mode {mode:04o}): "
    if mode & 0o060 != 0o060:
        return message + f"as root, chgrp kvm {device} && chmod 660 {device}, then usermod -aG kvm USER"
    if seen.st_gid in (os.getegid(), *os.getgroups()) or os.geteuid() == 0:
        return message + "the permissions are right, so a container or a security policy denies it"
    return message + f"usermod -aG {group} USER, then log in again"


class KvmVcpu:
    """One vCPU: its file descriptor and the page shared with the kernel."""

    def __init__(self, fd: int, page_size: int) -> None:
        self._fd = fd
        self._page = mmap.mmap(fd, page_size)
        self._words = memoryview(self._page).cast("I")
        self._stopping = False
        self._thread: int | None = None  # of `run`, while it runs
        self._lock = threading.Lock()  # guards _thread: never signal a thread that has ended
        mask = abi.SignalMask(len=8, sigset=(1 << 64) - 1 & ~(1 << KICK - 1))
        call(fd, abi.SET_SIGNAL_MASK, mask)

    @property
    def fd(self) -> int:
        """The file descriptor, for ioctls; the vCPU closes it."""
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            self._words.release()
            self._page.close()
            os.close(self._fd)
            self._fd = -1

    def enter_flat(self, rip: int, rsp: int) -> None:
        code = abi.Segment(limit=0xFFFFFFFF, selector=8, type=11, present=1, db=1, s=1, g=1)
        data = abi.Segment(limit=0xFFFFFFFF, selector=16, type=3, present=1, db=1, s=1, g=1)
        sregs = abi.Sregs()
        call(self._fd, abi.GET_SREGS, sregs)
        sregs.cs = code
        for name in ("ds", "es", "fs", "gs", "ss"):
            setattr(sregs, name, data)
        sregs.cr0 |= 1  # PE
        call(self._fd, abi.SET_SREGS, sregs)
        call(self._fd, abi.SET_REGS, abi.Regs(rip=rip, rsp=rsp, rflags=2))  # bit 1 is always set

    def run(self, handle: Handler) -> None:
        # Block every signal, not only ours: the main thread handles the process's signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with self._lock:
            self._thread = threading.get_ident()
        try:
            self._run(handle)
        finally:
            with self._lock:
                self._thread = None
            self._drain()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self, handle: Handler) -> None:
        # The hot path of every exit: local names, and no object beyond the data.
        fd, page, words, clock, run = self._fd, self._page, self._words, time.perf_counter_ns, _run
        union, io, mmio = abi.RUN_UNION, abi.RUN_IO.unpack_from, abi.RUN_MMIO.unpack_from
        reason_at, run_request, exit_io = abi.RUN_EXIT_REASON // 4, abi.RUN, abi.EXIT_IO
        while not self._stopping:
            result = run(fd, run_request, 0)
            stopped = clock()
            reason = words[reason_at]
            if result:
                self._failed(handle, stopped)
            elif reason == exit_io:
                out, size, port, count, at = io(page, union)
                end = at + size * count
                if out:
                    handle(stopped, IO, True, port, size, count, page[at:end])
                else:
                    page[at:end] = handle(stopped, IO, False, port, size, count)
            elif reason == abi.EXIT_MMIO:
                address, data, size, write = mmio(page, union)
                if write:
                    handle(stopped, MMIO, True, address, size, 1, data[:size])
                else:
                    at = abi.RUN_MMIO_DATA
                    page[at : at + size] = handle(stopped, MMIO, False, address, size)
            elif reason == abi.EXIT_HLT:
                handle(stopped, HLT)
            elif reason == abi.EXIT_SHUTDOWN:
                handle(stopped, SHUTDOWN)
            else:
                handle(stopped, OTHER, False, 0, 0, 1, b"", self._explain(reason))

    def _failed(self, handle: Handler, stopped: int) -> None:
        """KVM_RUN returned an error. The page still holds the previous exit: there is nothing to decode."""
        code = ctypes.get_errno()
        if code in _NO_EXIT:
            self._drain()
        else:
            handle(stopped, OTHER, False, 0, 0, 1, b"", f"KVM_RUN failed: {os.strerror(code)}")

    def _explain(self, reason: int) -> str:
        page, union = self._page, abi.RUN_UNION
        if reason == abi.EXIT_INTERNAL_ERROR:
            suberror, words = abi.RUN_INTERNAL.unpack_from(page, union)
            at = abi.RUN_INTERNAL_DATA
            data = page[at : at + 8 * min(words, 16)]
            what = abi.INTERNAL_ERRORS.get(suberror, "see linux/kvm.h")
            return f"KVM_EXIT_INTERNAL_ERROR, suberror {suberror} ({what}), data {data.hex(' ', 8) or 'none'}"
        if reason == abi.EXIT_FAIL_ENTRY:
            hardware, cpu = abi.RUN_FAIL_ENTRY.unpack_from(page, union)
            return f"KVM_EXIT_FAIL_ENTRY, hardware reason {hardware:#x} on cpu {cpu}"
        return f"{abi.EXIT_NAMES.get(reason, 'an unknown exit')} ({reason})"

    def stop(self) -> None:
        self._stopping = True
        with self._lock:
            if self._thread is not None and self._thread != threading.get_ident():
                signal.pthread_kill(self._thread, KICK)

    @staticmethod
    def _drain() -> None:
        while signal.sigtimedwait((KICK,), 0) is not None:
            pass

    def registers(self) -> str:
        regs, sregs = abi.Regs(), abi.Sregs()
        try:
            call(self._fd, abi.GET_REGS, regs)
            call(self._fd, abi.GET_SREGS, sregs)
        except OSError as exc:
            return f"registers: {exc.strerror}"
        shown = [f"{name}={getattr(regs, name):#x}" for name in abi.REGISTERS]
        shown += [f"{name}={getattr(sregs, name):#x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")]
        return " ".join([*shown, f"cs={sregs.cs.selector:#x}:{sregs.cs.base:#x}"])
