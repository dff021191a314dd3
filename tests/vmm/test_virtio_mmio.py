"""The transport: its registers, and the order of the initialization."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rondo_tools.vmm.devices.virtio.block import F_FLUSH, F_SEG_MAX, F_SIZE_MAX
from rondo_tools.vmm.devices.virtio.mmio import VERSION_1, Register, Status
from tests.support.vmm.virtio_driver import AVAILABLE, READY_STATUS, TABLE, USED, Driver, machine


@pytest.fixture
def driver() -> Iterator[Driver]:
    with machine() as driver:
        yield driver


def test_a_block_device_identifies_itself(driver: Driver) -> None:
    assert driver.get(Register.MAGIC).to_bytes(4, "little") == b"virt"
    assert driver.get(Register.VERSION) == 2
    assert driver.get(Register.DEVICE_ID) == 2
    assert driver.get(Register.VENDOR_ID).to_bytes(4, "little") == b"rndo"
    assert driver.get(Register.STATUS) == 0
    assert driver.get(Register.QUEUE_NUM_MAX) == 128
    assert driver.get(Register.CONFIG_GENERATION) == 0
    assert driver.get(Register.SHM_LEN_LOW) == driver.get(Register.SHM_LEN_HIGH) == 0xFFFFFFFF
    features = 0
    for select in (0, 1, 2, 0xFFFFFFFF):
        driver.set(Register.DEVICE_FEATURES_SEL, select)
        features |= driver.get(Register.DEVICE_FEATURES) << 32 * (select & 7)
    assert features == VERSION_1 | F_FLUSH | F_SIZE_MAX | F_SEG_MAX


def test_the_configuration_holds_the_capacity_at_every_width(driver: Driver) -> None:
    assert driver.device.read(Register.CONFIG, 8) == 64
    assert driver.get(Register.CONFIG) == 64
    assert driver.get(Register.CONFIG + 4) == 0
    assert driver.device.read(Register.CONFIG, 1) == 64
    assert driver.get(Register.CONFIG + 8) == 128 << 10  # size_max
    assert driver.get(Register.CONFIG + 12) == 126  # seg_max
    assert driver.device.read(0xFFF, 8) == 0
    driver.set(Register.CONFIG, 0xFFFFFFFF)
    assert driver.get(Register.CONFIG) == 64


def test_a_driver_that_follows_the_order_is_served(driver: Driver) -> None:
    driver.set_up()
    assert driver.get(Register.STATUS) == READY_STATUS
    assert driver.get(Register.QUEUE_READY) == 1
    assert driver.flush() == 0
    assert driver.interrupts == 1
    assert driver.get(Register.INTERRUPT_STATUS) == 1
    driver.set(Register.INTERRUPT_ACK, 2)
    assert driver.get(Register.INTERRUPT_STATUS) == 1
    driver.set(Register.INTERRUPT_ACK, 1)
    assert driver.get(Register.INTERRUPT_STATUS) == 0


def test_a_driver_can_disable_interrupts(driver: Driver) -> None:
    driver.set_up()
    driver.memory.write(AVAILABLE, b"\1\0")
    assert driver.flush() == 0
    assert (driver.interrupts, driver.get(Register.INTERRUPT_STATUS)) == (0, 0)


@pytest.mark.parametrize(
    "features", [F_FLUSH, 0, VERSION_1 | 1 << 28, VERSION_1 | 1 << 63, VERSION_1 | 1 << 5]
)
def test_features_not_offered_are_refused(driver: Driver, features: int) -> None:
    driver.set_up(features=features, ready=False, status=READY_STATUS & ~Status.DRIVER_OK)
    assert not driver.get(Register.STATUS) & Status.FEATURES_OK
    driver.set_up(features=features)
    assert not driver.get(Register.STATUS) & Status.FEATURES_OK
    assert driver.get(Register.QUEUE_READY) == 0
    driver.offer(0)
    assert driver.used == 0


def test_a_failure_before_driver_ok_causes_no_interrupt(driver: Driver) -> None:
    driver.set_up(size=0, status=READY_STATUS & ~Status.DRIVER_OK)
    assert driver.needs_reset
    assert (driver.interrupts, driver.get(Register.INTERRUPT_STATUS)) == (0, 0)


def test_a_reset_forgets_the_features(driver: Driver) -> None:
    driver.set_up()
    driver.set(Register.STATUS, 0)
    driver.set(Register.STATUS, 3 | Status.FEATURES_OK)
    assert not driver.get(Register.STATUS) & Status.FEATURES_OK


def test_driver_ok_before_the_features_needs_a_reset(driver: Driver) -> None:
    driver.set(Register.STATUS, 3 | Status.DRIVER_OK)
    assert driver.needs_reset
    assert driver.get(Register.INTERRUPT_STATUS) == 2
    assert driver.interrupts == 1


A, D, F, OK = Status.ACKNOWLEDGE, Status.DRIVER, Status.FEATURES_OK, Status.DRIVER_OK


@pytest.mark.parametrize(
    ("writes", "after"),
    [
        ([A], A),
        ([A, A | D], A | D),
        ([A | D], A | D),
        ([D], 0),
        ([D, A], A),
        ([F], 0),
        ([A | F], A),
        ([A, A | D, A | D | F], A | D | F),
        ([A, A | D, A | D | F, A | D | F | OK], A | D | F | OK),
        ([A | D | F | OK], A | D | F | OK),
        ([A | D | F, OK], A | D | F | OK),
        ([OK], OK | Status.NEEDS_RESET),
        ([A | D, A | D | OK], A | D | OK | Status.NEEDS_RESET),
        ([A | D | OK, A | D | F], A | D | OK | Status.NEEDS_RESET),
        ([Status.FAILED, A], Status.FAILED | A),
        ([A | D | F | OK, 0], 0),
        ([OK, 0, A], A),
    ],
)
def test_the_status_follows_the_order_of_the_initialization(
    driver: Driver, writes: list[int], after: int
) -> None:
    driver.set(Register.DRIVER_FEATURES_SEL, 1)
    driver.set(Register.DRIVER_FEATURES, VERSION_1 >> 32)
    for value in writes:
        driver.set(Register.STATUS, value)
    assert driver.get(Register.STATUS) == after


def test_only_a_reset_clears_status_bits(driver: Driver) -> None:
    driver.set_up()
    driver.set(Register.STATUS, Status.ACKNOWLEDGE)
    assert driver.get(Register.STATUS) == READY_STATUS
    driver.set(Register.STATUS, READY_STATUS | Status.FAILED | Status.NEEDS_RESET | 0xFFFFFF00)
    assert driver.get(Register.STATUS) == READY_STATUS | Status.FAILED


def test_a_reset_clears_everything(driver: Driver) -> None:
    driver.set_up()
    driver.flush()
    driver.set(Register.STATUS, 0)
    for register in (Register.STATUS, Register.QUEUE_READY, Register.INTERRUPT_STATUS):
        assert driver.get(register) == 0
    driver.offer(0)
    assert driver.used == 1, "nothing is served before the next DRIVER_OK"
    driver.memory.write(AVAILABLE, bytes(64))
    driver.memory.write(USED, bytes(64))
    assert driver.set_up().flush() == 0
    assert driver.used == 1


@pytest.mark.parametrize("size", [0, 3, 12, 129, 256, 65535, 65536, 0xFFFFFFFF])
def test_a_queue_of_an_invalid_size_needs_a_reset(driver: Driver, size: int) -> None:
    driver.set_up(size=size)
    assert driver.get(Register.QUEUE_READY) == 0
    assert driver.needs_reset
    driver.set(Register.QUEUE_NOTIFY, 0)
    assert driver.get(Register.INTERRUPT_STATUS) & 1 == 0


@pytest.mark.parametrize(
    "areas",
    [
        (TABLE + 8, AVAILABLE, USED),
        (TABLE, AVAILABLE + 1, USED),
        (TABLE, AVAILABLE, USED + 2),
        (0x10000, AVAILABLE, USED),
        (TABLE, 0xFFFE, USED),
        (TABLE, AVAILABLE, 0x10000 - 64),
        (1 << 32 | TABLE, AVAILABLE, USED),
        (TABLE, AVAILABLE, (1 << 64) - 4),
        (TABLE, TABLE, USED),
        (TABLE, AVAILABLE, TABLE + 124),
        (TABLE, AVAILABLE, AVAILABLE),
    ],
    ids=lambda areas: "-".join(f"{area:x}" for area in areas),
)
def test_invalid_queue_areas_need_a_reset(driver: Driver, areas: tuple[int, int, int]) -> None:
    driver.set_up(areas=areas)
    assert driver.get(Register.QUEUE_READY) == 0
    assert driver.needs_reset
    driver.set_up()  # which helps
    assert (driver.needs_reset, driver.flush()) == (False, 0)


def test_a_ready_queue_cannot_be_changed(driver: Driver) -> None:
    driver.set_up()
    driver.set(Register.QUEUE_DESC_LOW, 0x8000)
    driver.set(Register.QUEUE_NUM, 0)
    driver.set(Register.QUEUE_READY, 1)
    assert driver.flush() == 0


def test_a_queue_can_be_disabled(driver: Driver) -> None:
    driver.set_up()
    driver.set(Register.QUEUE_READY, 0)
    assert driver.get(Register.QUEUE_READY) == 0
    driver.offer(0)
    assert driver.used == 0
    assert not driver.needs_reset


def test_there_is_one_queue(driver: Driver) -> None:
    driver.set_up()
    driver.set(Register.QUEUE_SEL, 1)
    assert driver.get(Register.QUEUE_NUM_MAX) == driver.get(Register.QUEUE_READY) == 0
    driver.set(Register.QUEUE_NUM, 4)
    driver.set(Register.QUEUE_READY, 1)
    driver.set(Register.QUEUE_READY, 0)
    driver.set(Register.QUEUE_SEL, 0)
    assert driver.get(Register.QUEUE_READY) == 1
    assert driver.flush() == 0
    driver.offer(0, notify=False)
    driver.set(Register.QUEUE_NOTIFY, 1)
    assert driver.used == 1
    driver.set(Register.QUEUE_NOTIFY, 0)
    assert driver.used == 2


@pytest.mark.parametrize("status", [0, 3, READY_STATUS & ~Status.DRIVER_OK])
def test_a_notification_before_driver_ok_is_ignored(driver: Driver, status: int) -> None:
    driver.set_up(status=status)
    driver.flush()
    assert (driver.used, driver.interrupts, driver.completed) == (0, 0, [])


def test_a_notification_for_a_queue_that_is_not_ready_is_ignored(driver: Driver) -> None:
    driver.set_up(ready=False)
    driver.flush()
    assert (driver.used, driver.needs_reset) == (0, False)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_registers_accept_only_four_bytes(driver: Driver, size: int) -> None:
    assert driver.device.read(Register.MAGIC, size) == 0
    driver.device.write(Register.STATUS, size, 1)
    assert driver.get(Register.STATUS) == 0
    assert driver.device.read(Register.MAGIC + 2, 4) == 0
    driver.device.write(Register.STATUS + 2, 4, 1)
    assert driver.get(Register.STATUS) == 0


def test_warnings_are_rate_limited(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(10_000):
        driver.set(Register.QUEUE_NOTIFY, 0)
    assert 1 <= len(caplog.records) <= 5
    assert "notification" in caplog.records[0].getMessage()
