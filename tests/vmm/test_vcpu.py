"""The exit path: every exit is dispatched and counted once."""

from __future__ import annotations

import threading

import pytest

from rondo_tools.vmm import vcpu as vcpu_module
from rondo_tools.vmm.accel.base import HLT, IO, MMIO, OTHER, SHUTDOWN, Exit, ScriptedVcpu
from rondo_tools.vmm.bus import Bus
from rondo_tools.vmm.counters import Counters
from rondo_tools.vmm.vcpu import End, RunLoop


class Tape:
    """A device that records writes, and reads as the number of its reads."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.reads = 0

    def read(self, offset: int, size: int) -> int:
        self.reads += 1
        return self.reads

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


class Board:
    """A run loop around a scripted vCPU, with a tape at port 0x10 and one at address 0x1000."""

    def __init__(self, *script: Exit, spin: bool = False, halt_ns: int = 0) -> None:
        self.port, self.window = Tape(), Tape()
        ports, mmio = Bus("ports"), Bus("mmio")
        ports.add(0x10, 4, self.port)
        mmio.add(0x1000, 16, self.window)
        self.counters = Counters()
        self.vcpu = ScriptedVcpu(script, spin=spin)
        self.loop = RunLoop(self.vcpu, ports, mmio, self.counters.count_exit, halt_ns=lambda: halt_ns)

    def exits(self) -> dict[str, int]:
        return dict(
            zip(("io", "mmio", "hlt", "shutdown", "other"), self.counters.snapshot().exits, strict=True)
        )


def test_a_port_write_reaches_its_device_with_an_offset() -> None:
    board = Board(Exit(IO, True, 0x12, 2, 1, b"\x34\x12"))
    board.loop.run()
    assert board.port.written == [(2, 2, 0x1234)]


def test_reads_are_answered_little_endian_in_their_size() -> None:
    board = Board(Exit(IO, False, 0x10, 1), Exit(MMIO, False, 0x1004, 4), Exit(MMIO, False, 0x9000, 8))
    board.loop.run()
    assert board.vcpu.answers == [b"\x01", b"\x01\0\0\0", b"\xff" * 8]


def test_a_string_instruction_is_many_accesses_and_one_exit() -> None:
    board = Board(Exit(IO, True, 0x10, 1, 3, b"abc"), Exit(IO, False, 0x10, 2, 3))
    board.loop.run()
    assert board.port.written == [(0, 1, ord("a")), (0, 1, ord("b")), (0, 1, ord("c"))]
    assert board.vcpu.answers[1] == b"\x01\0\x02\0\x03\0"
    assert board.exits()["io"] == 2


def test_an_access_of_three_bytes_is_made_byte_by_byte() -> None:
    board = Board(Exit(MMIO, True, 0x1001, 3, 1, b"xyz"), Exit(MMIO, False, 0x1001, 3))
    board.loop.run()
    assert board.window.written == [(1, 1, ord("x")), (2, 1, ord("y")), (3, 1, ord("z"))]
    assert board.vcpu.answers[1] == b"\x01\x02\x03"


def test_a_string_instruction_of_an_odd_size_is_made_byte_by_byte_in_order() -> None:
    board = Board(Exit(IO, True, 0x10, 3, 2, b"abcdef"))
    board.loop.run()
    assert board.port.written == [
        (offset, 1, ord(letter)) for offset, letter in zip((0, 1, 2) * 2, "abcdef", strict=True)
    ]


def test_each_exit_is_counted_by_its_reason() -> None:
    board = Board(
        Exit(IO, False, 0x10, 1), Exit(MMIO, False, 0x1000, 1), Exit(HLT), Exit(HLT), Exit(SHUTDOWN)
    )
    assert board.loop.run().reason == "shutdown"
    assert board.exits() == {"io": 1, "mmio": 1, "hlt": 2, "shutdown": 1, "other": 0}


def test_an_other_exit_is_an_error_with_reason_and_registers() -> None:
    board = Board(Exit(OTHER, detail="KVM said no"), Exit(IO, True, 0x10, 1, 1, b"x"))
    assert board.loop.run() == End("error", "KVM said no; rip=scripted")
    assert board.port.written == []
    assert board.exits()["other"] == 1


def test_the_first_end_is_kept() -> None:
    board = Board(Exit(SHUTDOWN))
    board.loop.finish("signal")
    board.loop.finish("deadline")
    assert board.loop.run() == End("signal")
    assert board.exits()["shutdown"] == 0  # the guest was never entered


def test_an_exception_of_a_device_ends_the_vm_as_an_error() -> None:
    board = Board(Exit(IO, True, 0x10, 1, 1, b"x"))
    del board.port.written
    with pytest.raises(AttributeError):
        board.loop.run()
    assert board.loop.end is not None
    assert board.loop.end.reason == "error"
    assert "AttributeError" in board.loop.end.detail


def test_a_stop_from_another_thread_ends_a_spinning_guest() -> None:
    board = Board(spin=True)
    timer = threading.Timer(0.01, board.loop.finish, ("deadline",))
    timer.start()
    assert board.loop.run() == End("deadline")
    timer.join()


def test_a_stop_ends_the_sleep_of_a_halted_guest() -> None:
    hour_ns = 3600 * 10**9
    board = Board(Exit(HLT), Exit(IO, True, 0x10, 1, 1, b"x"), halt_ns=hour_ns)
    timer = threading.Timer(0.01, board.loop.finish, ("signal",))
    timer.start()
    assert board.loop.run() == End("signal")
    timer.join()
    assert board.port.written == []


class Clock:
    """A clock that a test advances; each reading adds a nanosecond."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vcpu_module, "perf_counter_ns", clock)
    return clock


def test_time_is_divided_into_running_and_handling(clock: Clock) -> None:
    counted: list[tuple[str, int, int]] = []
    ports = Bus("ports")

    class Slow(Tape):
        def write(self, offset: int, size: int, value: int) -> None:
            clock.now += 500

    ports.add(0x10, 4, Slow())

    class Guest(ScriptedVcpu):
        def run(self, handle: object) -> None:
            for _ in range(2):
                clock.now += 10_000  # in the guest
                loop.handle(clock(), IO, True, 0x10, 1, 1, b"x")

    loop = RunLoop(Guest(()), ports, Bus("mmio"), lambda *exit: counted.append(exit))
    loop.run()
    assert counted == [("io", 10_001, 501), ("io", 10_001, 501)]


def test_time_asleep_is_neither_running_nor_handling(clock: Clock) -> None:
    counted: list[tuple[str, int, int]] = []

    def halt_ns() -> int:  # asked for when the sleep begins: let it pass here
        clock.now += 10_000_000
        return 0

    class Guest(ScriptedVcpu):
        def run(self, handle: object) -> None:
            loop.handle(clock(), HLT)
            loop.handle(clock(), IO, False, 0x10, 1)

    loop = RunLoop(Guest(()), Bus("ports"), Bus("mmio"), lambda *exit: counted.append(exit), halt_ns=halt_ns)
    loop.run()
    assert [reason for reason, _, _ in counted] == ["hlt", "io"]
    assert all(0 < run_ns < 10 and 0 < exit_ns < 10 for _, run_ns, exit_ns in counted)
