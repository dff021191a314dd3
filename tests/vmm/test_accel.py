"""Both accelerators, run for real with a few bytes of machine code: the same guest, the same exits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.vmm.accel.base import HLT, IO, MMIO, OTHER, SHUTDOWN, Accelerator, Exit
from rondo_tools.vmm.accel.choose import open_accelerator
from rondo_tools.vmm.memory import GuestMemory
from tests.support.needs import PATIENCE_S, must_have

CODE = 0x1000
STACK = 0x8000
MEMORY = 1 << 20

SPIN = "ebfe"  # jmp to itself
HALT = "f4"


class Bench:
    """An accelerator with a little memory, and the exits of its guest; `run` answers reads with ones."""

    def __init__(self, choice: str) -> None:
        self.memory = GuestMemory(MEMORY)
        self.accelerator: Accelerator = open_accelerator(choice, self.memory.mapping)
        self.vcpu = self.accelerator.vcpu
        self.exits: list[Exit] = []

    def close(self) -> None:
        self.accelerator.close()
        self.memory.close()

    def load(self, code: str) -> None:
        self.memory.write(CODE, bytes.fromhex(code))
        self.vcpu.enter_flat(CODE, STACK)

    def run(self, code: str, *, until: str = HLT, answer: bytes = b"\xff") -> list[Exit]:
        """Run `code` until an exit of that reason, which ends it."""
        self.load(code)

        def handle(stopped: int, *fields: Any) -> bytes:
            exit = Exit(*fields)
            self.exits.append(exit)
            if exit.reason in (until, SHUTDOWN, OTHER):
                self.vcpu.stop()
            return b"" if exit.write else answer * (exit.size * exit.repeat)

        self.vcpu.run(handle)
        return self.exits


@pytest.fixture(params=["kvm", "soft"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm does not open")
    if request.param == "soft":
        try:
            import unicorn  # noqa: F401
        except ImportError:
            must_have("unicorn is not installed")
    bench = Bench(request.param)
    try:
        yield bench
    finally:
        bench.close()


def test_port_accesses(bench: Bench) -> None:
    # mov dx, 0x3f8; mov al, 0x41; out dx, al; in eax, 0x60; mov dx, 0x511; out dx, ax; hlt
    exits = bench.run("66baf803 b041 ee e560 66ba1105 66ef f4")
    assert exits == [
        Exit(IO, True, 0x3F8, 1, 1, b"A"),
        Exit(IO, False, 0x60, 4),
        Exit(IO, True, 0x511, 2, 1, b"\xff\xff"),  # what IN was answered
        Exit(HLT),
    ]


def test_accesses_above_memory_are_mmio(bench: Bench) -> None:
    # mov eax, [0xd0000004]; mov [0xd0000fff], al; mov [0x100000], eax; hlt
    exits = bench.run("a1040000d0 a2ff0f00d0 a300001000 f4", answer=b"\x5a")
    assert exits == [
        Exit(MMIO, False, 0xD0000004, 4),
        Exit(MMIO, True, 0xD0000FFF, 1, 1, b"\x5a"),
        Exit(MMIO, True, 0x100000, 4, 1, b"\x5a" * 4),
        Exit(HLT),
    ]


def test_a_string_instruction_moves_every_byte(bench: Bench) -> None:
    bench.memory.write(0x2000, b"rondo")
    # mov esi, 0x2000; mov ecx, 5; mov dx, 0x3f8; rep outsb; mov edi, 0x3000; mov cl, 4; rep insb; hlt
    exits = bench.run("be00200000 b905000000 66baf803 f36e bf00300000 b104 f36c f4", answer=b"i")
    assert b"".join(exit.data for exit in exits) == b"rondo"
    assert sum(exit.repeat for exit in exits if exit.reason == IO) == 9
    assert bench.memory.read(0x3000, 5) == b"iiii\0"


def test_the_guest_shares_memory_with_the_host(bench: Bench) -> None:
    bench.memory.write(0x2000, b"\x07")
    bench.run("a000200000 a201200000 f4")  # mov al, [0x2000]; mov [0x2001], al; hlt
    assert bench.memory.read(0x2000, 2) == b"\x07\x07"


def test_the_stack_is_where_it_was_put(bench: Bench) -> None:
    bench.run("6a2a f4")  # push 42; hlt
    assert bench.memory.read(STACK - 4, 4) == b"\x2a\0\0\0"


def test_a_halted_guest_continues_after_the_halt(bench: Bench) -> None:
    # hlt; mov al, 1; out 0x80, al; jmp to itself
    exits = bench.run("f4 b001 e680 ebfe", until=IO)
    assert [exit.reason for exit in exits] == [HLT, IO]


@pytest.mark.parametrize("code", ["0f0b", "ea000000000000"], ids=["ud2", "far jump to nowhere"])
def test_an_exception_without_an_idt_is_a_shutdown(bench: Bench, code: str) -> None:
    assert [exit.reason for exit in bench.run(code)] == [SHUTDOWN]


def test_a_jump_outside_memory_is_an_other_exit(bench: Bench) -> None:
    (exit,) = bench.run("e900000020")  # jmp far above memory
    assert exit.reason == OTHER
    assert exit.detail
    assert "ip=0x20001005" in bench.vcpu.registers()


@pytest.mark.parametrize(
    "code", [SPIN, f"{HALT}ebfd", "e680ebfc"], ids=["spinning", "halting", "making exits"]
)
def test_a_stop_from_another_thread_ends_the_run(bench: Bench, code: str) -> None:
    bench.load(code)
    entered = threading.Event()
    ended = threading.Event()

    def handle(stopped: int, *fields: Any) -> bytes:
        entered.set()
        return b""

    def run() -> None:
        if code == SPIN:
            entered.set()
        bench.vcpu.run(handle)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(PATIENCE_S)
    while not ended.wait(0.01):
        bench.vcpu.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_stop_before_the_run_is_not_lost(bench: Bench) -> None:
    bench.load(SPIN)
    bench.vcpu.stop()
    bench.vcpu.run(lambda *_: b"")


def test_an_exception_of_the_handler_is_raised_by_run(bench: Bench) -> None:
    bench.load("e680 e560 ebfa")  # out 0x80, al; in eax, 0x60; jmp back

    def handle(stopped: int, *fields: Any) -> bytes:
        exit = Exit(*fields)
        raise ZeroDivisionError(exit.address)

    with pytest.raises(ZeroDivisionError, match="128"):
        bench.vcpu.run(handle)


def test_the_time_of_an_exit_is_between_the_handlers(bench: Bench) -> None:
    import time

    bench.load("e680 e680 f4")
    moments: list[int] = []

    def handle(stopped: int, *fields: Any) -> bytes:
        exit = Exit(*fields)
        moments.append(stopped)
        if exit.reason == HLT:
            bench.vcpu.stop()
        moments.append(time.perf_counter_ns())
        return b""

    bench.vcpu.run(handle)
    assert moments == sorted(moments)
    assert len(moments) == 6


def test_close_does_not_close_the_memory(bench: Bench) -> None:
    bench.accelerator.close()
    bench.memory.write(0, b"x")
    bench.memory.close()
    # closed twice, by the fixture: owners may


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(MEMORY) as memory:
        yield memory


def test_auto_without_kvm_is_soft_and_logs_the_reason(
    memory: GuestMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("unicorn")
    accelerator = open_accelerator("auto", memory.mapping, device=str(tmp_path / "kvm"))
    accelerator.close()
    assert accelerator.name == "soft"
    assert f"there is no {tmp_path}/kvm" in caplog.text


def test_auto_with_kvm_is_kvm_and_logs_it(memory: GuestMemory, caplog: pytest.LogCaptureFixture) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm does not open")
    caplog.set_level("INFO")
    accelerator = open_accelerator("auto", memory.mapping)
    accelerator.close()
    assert accelerator.name == "kvm"
    assert "kvm, because /dev/kvm opens" in caplog.text


def test_without_unicorn_the_message_names_the_extra(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rondo_tools.errors import VmError

    monkeypatch.setitem(__import__("sys").modules, "unicorn", None)
    with pytest.raises(VmError, match=r"pip install 'rondo-tools\[soft\]'") as caught:
        open_accelerator("soft", memory.mapping)
    assert caught.value.exit_code == 69
