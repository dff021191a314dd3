"""The roll-up of journals through files, against a plain loop over the ticks."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rondo_tools.store.carry import parse_carry
from rondo_tools.store.compaction import clean_up
from rondo_tools.store.format import frames
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, tier_name
from rondo_tools.store.format.state import State
from tests.support.store.store_journals import (
    T0,
    TIERS,
    A,
    B,
    C,
    Host,
    Session,
    Tick,
    descriptions,
    expected_rows,
    series,
    stored_rows,
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "store")


def test_a_short_session_becomes_coarse_rows_a_description_and_last_rows(host: Host) -> None:
    vm = Session("vm-1", labels=(("host", "a"),))
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 5))
    journal.end(vm, "shutdown", T0 + 5_500)
    journal.close()
    result = host.roll_up()
    host.check()
    found = descriptions(host.layout, host.state)[vm.key]
    assert (found.reason, found.end_ms, found.series) == ("shutdown", T0 + 5_500, 3)
    assert result.counts.ended == 1
    assert result.counts.rows == 5
    assert host.state.rolled_up == 1
    assert host.state.journals == {1: T0}
    assert not parse_carry(host.layout.carry(host.state.carry).read_bytes()).sessions


def test_windows_that_span_journals_are_written_once(host: Host) -> None:
    vms = [Session(f"vm-{n}", T0 + 137 * n) for n in range(70)]
    for _ in range(5):
        journal = host.journal()
        for _ in range(13):
            journal.rows([(vm, tick) for vm in vms for tick in host.some(vm, 1)])
        journal.close()
        host.roll_up()
        host.check()
    journal = host.journal()
    for vm in vms:
        journal.end(vm, "poweroff")
    journal.close()
    host.roll_up()
    host.check()
    assert len(host.layout.carries()) == 1
    assert {tuple(host.layout.numbers(tier_name(tier))) for tier in (1, 2)} == {(1,)}


def test_a_coarse_row_names_the_journal_of_its_last_tick(host: Host) -> None:
    vm = Session("vm-1", T0)
    for _ in range(4):
        journal = host.journal()
        journal.ticks(vm, host.some(vm, 7))
        journal.close()
    host.journal().close()  # without a row
    journal = host.journal()
    journal.end(vm, "poweroff")
    journal.close()
    host.roll_up()
    host.check()
    origins = stored_rows(host.layout, host.state, 1, 10_000).origins
    expected = {}
    for n, tick in enumerate(host.ticks[vm]):
        expected[vm.key, tick.t_ms // 10_000] = n // 7 + 1
    assert origins == expected


@pytest.mark.parametrize("piece", [1, 500, 1 << 20])
def test_sessions_that_change_their_schema(host: Host, piece: int) -> None:
    host.piece = piece
    vms = [Session(f"vm-{n}") for n in range(3)]
    for number in range(4):
        journal = host.journal()
        for n in range(9):
            for vm in vms:
                journal.ticks(vm, host.some(vm, host.random.randint(1, 6), (A, B, C, A)[(n + number) % 4]))
        if number == 3:
            for vm in vms:
                journal.end(vm, "poweroff")
        journal.close()
        host.roll_up()
        host.check()


@pytest.mark.parametrize("pause_ms", [0, 60_000, 3_600_000])
@pytest.mark.parametrize("ticks", [3, 900])
def test_a_session_that_comes_back_after_its_end_was_rolled_up(host: Host, pause_ms: int, ticks: int) -> None:
    vm, other = Session("vm-1"), Session("vm-2")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, ticks, B))
    journal.ticks(vm, host.some(vm, 4, A))
    journal.end(vm, "lost")
    journal.ticks(other, host.some(other, 5))
    journal.close()
    host.roll_up()
    host.check()
    for reason in ("lost", "shutdown"):
        journal = host.journal()
        journal.ticks(vm, host.some(vm, 1, A, 1000 + pause_ms))
        journal.close()
        result = host.roll_up()
        assert result.counts.back == 1
        host.check(doubles=2)
        journal = host.journal()
        journal.ticks(vm, host.some(vm, 4, C))
        journal.end(vm, reason)
        journal.close()
        host.roll_up()
        host.check(doubles=2)
    assert descriptions(host.layout, host.state)[vm.key].reason == "shutdown"


@pytest.mark.parametrize("ticks", [20, 900])
def test_a_session_that_comes_back_keeps_its_earlier_series(host: Host, ticks: int) -> None:
    """Also series that none of its last rows has."""
    vm = Session("vm-1")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 20, B))
    journal.ticks(vm, host.some(vm, ticks, A))
    journal.end(vm, "lost")
    journal.close()
    host.roll_up()
    for reason in ("lost", "shutdown"):
        journal = host.journal()
        journal.ticks(vm, host.some(vm, 1, A))
        journal.end(vm, reason)
        journal.close()
        host.roll_up()
        host.check(doubles=4)


def test_last_rows_are_in_time_order_after_a_schema_change(host: Host) -> None:
    first, second = Session("vm-1"), Session("vm-2")
    journal = host.journal()
    journal.ticks(first, host.some(first, 5, A))
    for schema in (B, A):
        journal.ticks(second, host.some(second, 5, schema))
    journal.end(second, "shutdown")
    journal.close()
    host.roll_up()
    host.check()
    assert descriptions(host.layout, host.state)[second.key].series == 4


def test_a_later_end_replaces_the_reason_lost(host: Host) -> None:
    vm = Session("vm-1")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 700))
    journal.end(vm, "lost")
    journal.close()
    host.roll_up()
    for reason in ("lost", "reboot"):
        journal = host.journal()
        journal.end(vm, reason, T0 + 999_999)
        journal.close()
        host.roll_up()
        host.check()
        found = descriptions(host.layout, host.state)[vm.key]
        assert (found.reason, found.series) == (reason, 3)


def test_later_ticks_undo_an_end_lost(host: Host) -> None:
    vm = Session("vm-1")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 5))
    journal.end(vm, "lost")
    journal.ticks(vm, host.some(vm, 5))
    journal.close()
    result = host.roll_up()
    assert not result.frames
    host.check()
    journal = host.journal()
    journal.end(vm, "lost")
    journal.close()
    host.roll_up()
    host.check()
    assert descriptions(host.layout, host.state)[vm.key].reason == "lost"


def test_a_session_with_only_an_end_gets_a_description(host: Host) -> None:
    """A session without a tick gets a description too; a declaration alone leaves nothing."""
    journal = host.journal()
    journal.declare(Session("vm-1"))
    journal.end(Session("vm-2"), "crash")
    journal.close()
    assert host.roll_up().frames
    ((key, description),) = descriptions(host.layout, host.state).items()
    assert key == Session("vm-2").key
    assert (
        description.reason,
        description.ticks,
        description.first_ms,
        description.last_ms,
        description.series,
    ) == ("crash", 0, 0, 0, 0)
    assert not parse_carry(host.layout.carry(host.state.carry).read_bytes()).sessions


def test_last_rows_are_at_most_6000_ticks_of_ten_minutes(host: Host) -> None:
    fast, slow = Session("fast", interval_ms=50), Session("slow", interval_ms=5000)
    for _ in range(3):
        journal = host.journal()
        journal.ticks(fast, host.some(fast, 3000, step_ms=50))
        journal.ticks(slow, host.some(slow, 100, step_ms=5000))
        journal.close()
    journal = host.journal()
    journal.end(fast, "poweroff")
    journal.end(slow, "poweroff")
    journal.close()
    host.roll_up()
    host.check()


def test_a_derived_file_spans_an_eighth_of_its_tier_and_ends_with_an_index(host: Host) -> None:
    vm = Session("vm-1")
    for _ in range(4):
        journal = host.journal()
        short = Session(f"short-{host.number}")
        journal.ticks(vm, host.some(vm, 20))
        journal.ticks(short, host.some(short, 3))
        journal.end(short, "poweroff")
        journal.close()
        host.roll_up()
        host.now_ms += 6 * 3_600_000 // 16
        host.check()
    journal = host.journal()
    journal.end(vm, "poweroff")
    journal.close()
    host.now_ms += 86_400_000
    host.roll_up()
    host.check()
    tier_1 = host.state.files["tier_1"]
    assert len(tier_1) == 3
    assert [bool(file.index_at and file.closed_ms) for file in tier_1.values()] == [True, True, False]
    assert len(host.state.files["tier_2"]) == 2
    assert len(host.state.files[LAST_ROWS]) == len(host.state.files[ENDED]) == 2


def test_a_derived_file_of_another_length_is_not_continued(host: Host) -> None:
    vm = Session("vm-1")
    for n in range(4):
        journal = host.journal()
        journal.ticks(vm, host.some(vm, 30))
        journal.close()
        host.roll_up()
        path = host.layout.file("tier_1", host.layout.numbers("tier_1")[-1])
        if n == 0:
            with path.open("ab") as file:
                file.write(b"x")
        host.check()
    assert sorted(host.state.files["tier_1"]) == [1, 2]
    assert host.state.files["tier_1"][1].closed_ms


def test_a_damaged_journal_frame_is_skipped_with_a_warning(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = Session("good"), Session("bad")
    journal = host.journal()
    journal.ticks(good, host.some(good, 3))
    journal.writer.write()
    begin = journal.writer.size
    journal.declare(bad)
    journal.rows([(bad, Tick(T0 + 1, A, (1.0, 2.0, 3.0)))])
    journal.writer.write()
    end = journal.writer.size
    journal.ticks(good, host.some(good, 3))
    journal.end(good, "poweroff")
    journal.close()
    data = bytearray(journal.path.read_bytes())
    data[begin + 60] ^= 1  # in the declaration of the bad one
    journal.path.write_bytes(data)
    result = host.roll_up()
    host.ticks.pop(bad, None)
    host.check()
    assert 0 < result.counts.damaged_bytes < end - begin
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(journal.path) in warning.getMessage()


@pytest.mark.parametrize("how", ["gone", "empty", "foreign", "folder"])
def test_an_unreadable_journal_is_skipped(host: Host, how: str, caplog: pytest.LogCaptureFixture) -> None:
    vm = Session("vm-1")
    first = host.journal()
    first.ticks(vm, [])
    first.close()
    first.path.unlink()
    if how == "folder":
        first.path.mkdir()
    elif how != "gone":
        first.path.write_bytes(b"" if how == "empty" else b"x" * 100)
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 30))
    journal.end(vm, "poweroff")
    journal.close()
    result = host.roll_up()
    host.check()
    is_lost = how != "empty"  # else its writer was killed before the first row
    assert (result.counts.journals, result.counts.unread_journals) == (2, is_lost)
    assert (str(first.path) in caplog.text) == is_lost


def test_a_roll_up_continues_without_its_carry(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    vm, other = Session("vm-1"), Session("vm-2")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 30))
    journal.close()
    host.roll_up()
    path = host.layout.carry(host.state.carry)
    path.write_bytes(path.read_bytes()[:-1])
    host.ticks.clear()
    journal = host.journal()
    journal.ticks(other, host.some(other, 30))
    journal.end(other, "poweroff")
    journal.close()
    host.roll_up()
    assert str(path) in caplog.text
    stored = stored_rows(host.layout, host.state, 1, 10_000)
    assert stored.rows[other.key] == expected_rows(host.ticks[other], 10_000)


@pytest.mark.heavy
def test_many_sessions_of_many_schemas(host: Host) -> None:
    journal = host.journal()
    for n in range(300):
        vm = Session(f"vm-{n}")
        journal.ticks(vm, host.some(vm, 3, series("c1", f"g{n}")))
        journal.end(vm, "poweroff")
    journal.close()
    host.roll_up()
    host.check()


def test_uncommitted_files_are_removed_at_start(host: Host) -> None:
    vm = Session("vm-1")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 30))
    journal.end(vm, "poweroff")
    journal.close()
    layout = host.layout
    clean_up(layout, State(), TIERS)  # there is no state yet
    host.roll_up()
    kept = {path: path.read_bytes() for path in layout.path.rglob("*") if path.is_file()}
    left = [
        layout.file("tier_1", 7), layout.file(ENDED, 2), layout.file(LAST_ROWS, 9), layout.carry(2),
        layout.path / ".state.json.123", layout.path / ".carry_0000000002.77",
    ]  # fmt: skip
    for path in left:
        path.write_bytes(b"x")
    stranger = layout.folder("tier_1") / "README"
    stranger.write_text("mine")
    clean_up(layout, host.state, TIERS)
    assert not any(path.exists() for path in left)
    assert {path: path.read_bytes() for path in kept} == kept
    assert stranger.exists()
    assert layout.file(JOURNALS, 1).exists()


def test_a_derived_file_of_another_store_is_not_continued(host: Host) -> None:
    vm = Session("vm-1")
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 30))
    journal.close()
    host.roll_up()
    path = host.layout.file("tier_1", 1)
    data = path.read_bytes()
    path.write_bytes(frames.new_file(1, b"other-id").pack() + data[frames.FILE_SIZE :])
    journal = host.journal()
    journal.ticks(vm, host.some(vm, 30))
    journal.close()
    host.roll_up()
    assert sorted(host.state.files["tier_1"]) == [1, 2]
