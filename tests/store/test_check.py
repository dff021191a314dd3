"""Damage of every kind: check finds it, and readers return no wrong data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rondo_tools.errors import EX_DATAERR, StoreError
from rondo_tools.store.check import Checker
from rondo_tools.store.format import frames
from rondo_tools.store.format.layout import ENDED, JOURNALS, tier_name
from rondo_tools.store.format.records import descriptions_in, pack_descriptions
from rondo_tools.store.reader import Store
from tests.support.rounds import IN_ROUNDS
from tests.support.store import look_truth as truth
from tests.support.store.journal_fixtures import T0, Writer

pytestmark = pytest.mark.usefixtures("no_waits_in_module")


def named_files(writer: Writer) -> list[Path]:
    layout = writer.layout
    return [
        *(layout.file(JOURNALS, number) for number in layout.numbers(JOURNALS)),
        *(layout.file(folder, number) for folder, some in writer.state.files.items() for number in some),
    ]


def check_nothing_made_up(writer: Writer) -> None:
    """Readers of a damaged store return only ticks that were written."""
    for session in Store(writer.layout.path).sessions():
        rows = session.rows()
        life = writer.lives.get((session.instance, session.start_ms))
        assert life is not None
        known = truth.raw(life.ticks)
        columns = [session.header.series[one.series].name for one in session.columns(0)]
        for t_ms, values in zip(rows.t_ms.tolist(), rows.values.tolist(), strict=True):
            for name, value in zip(columns, values, strict=True):
                assert value != value or known[t_ms][name, "last"] == truth.bits(value)
        for tier in (1, 2):
            session.rows(tier)


@IN_ROUNDS
@pytest.mark.heavy
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_found(written: Writer, data: st.DataObject, round_: int) -> None:
    path = data.draw(st.sampled_from(named_files(written)))
    whole = path.read_bytes()
    hurt = bytearray(whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    hurt[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(hurt)
    try:
        findings = list(Checker(written.layout.path).findings())
        if covered(whole, at):
            assert path in [one.path for one in findings]
        else:
            assert findings == []
        check_nothing_made_up(written)
    finally:
        path.write_bytes(whole)


def covered(data: bytes, at: int) -> bool:
    """Whether a byte is under a CRC: all but the file header's last four and a frame's padding."""
    if at < frames.FILE_SIZE:
        return at < 36
    for begin, head, _ in frames.scan(data, frames.parse_file_header(data).seed):
        if begin <= at < begin + head.size:
            return at < begin + frames.HEAD_SIZE + head.length
    raise AssertionError(f"byte {at} is in no frame")


def test_a_sound_store_has_no_findings(written: Writer) -> None:
    verifier = Checker(written.layout.path)
    assert list(verifier.findings()) == []
    assert verifier.sessions == len(Store(written.layout.path).sessions())
    assert verifier.files == len(named_files(written))


@pytest.mark.parametrize("harm", ["gone", "short", "a folder"])
def test_missing_and_truncated_files_are_found(written: Writer, harm: str) -> None:
    """A file that is missing, truncated, or unreadable; the data of the others is still there."""
    for path in named_files(written):
        whole = path.read_bytes()
        if harm == "short":
            path.write_bytes(whole[: len(whole) // 2])
        else:
            path.unlink()
        if harm == "a folder":
            path.mkdir()
        named = {one.path for one in Checker(written.layout.path).findings()}
        check_nothing_made_up(written)
        if harm == "a folder":
            path.rmdir()
        path.write_bytes(whole)
        # The length, and the existence, of the current journal are recorded nowhere.
        if (
            path.parent.name != JOURNALS
            or harm == "a folder"
            or (harm == "gone" and int(path.name) <= written.state.rolled_up)
        ):
            assert path in named
    assert list(Checker(written.layout.path).findings()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_a_finding(written: Writer) -> None:
    path = written.layout.file(JOURNALS, 1)
    path.chmod(0)
    (finding,) = Checker(written.layout.path).findings()
    assert finding == (path, "Permission denied")
    assert len(Store(written.layout.path).sessions()) == 4


@pytest.mark.parametrize("name", ["store.json", "state.json"])
def test_an_invalid_store_or_state_is_an_error_with_the_file(written: Writer, name: str) -> None:
    path = written.layout.path / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StoreError, match=name) as caught:
        Store(written.layout.path).sessions()
    assert caught.value.exit_code == EX_DATAERR


def test_a_damaged_carry_loses_only_open_windows(written: Writer) -> None:
    path = written.layout.carry(written.state.carry)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert [one.path for one in Checker(written.layout.path).findings()] == [path]
    check_nothing_made_up(written)


def test_a_wrong_coarse_row_is_found(written: Writer) -> None:
    """Its CRC is right, so only the ticks show it."""
    for tier in (1, 2):
        path = written.layout.file(tier_name(tier), 1)
        whole = path.read_bytes()
        seed = frames.parse_file_header(whole).seed
        at, head, payload = next(one for one in frames.scan(whole, seed) if one[1].kind == frames.ROWS)
        changed = bytearray(payload)
        changed[12:20] = bytes(8)
        made = frames.frame(
            seed, frames.ROWS, bytes(changed), schema=head.schema, entries=head.entries,
            least_ms=head.least_ms, greatest_ms=head.greatest_ms, least_session=head.least_session,
            greatest_session=head.greatest_session, origin=head.origin,
        )  # fmt: skip
        path.write_bytes(whole[:at] + made + whole[at + len(made) :])
        (finding,) = Checker(written.layout.path).findings()
        assert finding.path == path
        assert finding.what.endswith("is not the roll-up of its ticks")
        assert str(T0) in finding.what
        path.write_bytes(whole)


def test_descriptions_with_wrong_places_are_found(written: Writer) -> None:
    path = written.layout.file(ENDED, 1)
    whole = path.read_bytes()
    seed = frames.parse_file_header(whole).seed
    at, head, payload = next(one for one in frames.scan(whole, seed) if one[1].kind == frames.DESCRIPTIONS)
    (description,) = descriptions_in(payload, head.entries)
    for place, what in (
        (description.places[0]._replace(offset=48), "no such rows"),
        (description.places[0]._replace(rows=99), "no such rows"),
        (description.places[0]._replace(rows=1), "last tick"),
    ):
        wrong = pack_descriptions([description._replace(places=(place,))])
        made = frames.frame(seed, frames.DESCRIPTIONS, wrong, entries=1)
        path.write_bytes(whole[:at] + made + whole[at + head.size :])
        committed = written.state.files[ENDED][1]
        committed.length += len(made) - head.size
        written.commit()
        assert [what in one.what for one in Checker(written.layout.path).findings()] == [True]
        committed.length -= len(made) - head.size
    path.write_bytes(whole)
    written.commit()


def test_bytes_beyond_the_committed_length_are_no_data(written: Writer) -> None:
    before = list(Checker(written.layout.path).findings())
    for path in named_files(written):
        if path.parent.name != JOURNALS:
            path.write_bytes(path.read_bytes() + path.read_bytes()[40:])
    written.layout.file(tier_name(1), 77).write_bytes(b"a roll-up that was never committed")
    assert list(Checker(written.layout.path).findings()) == before == []
    assert len(Store(written.layout.path).sessions()) == 4


def test_an_incomplete_last_frame_is_no_damage(written: Writer) -> None:
    """The writer may be appending it; the next look reads it."""
    path = written.layout.file(JOURNALS, written.newest)
    whole = path.read_bytes()
    store = Store(written.layout.path)
    served: set[int] = set()
    for size in range(frames.FILE_SIZE, len(whole) + 1, 41):
        path.write_bytes(whole[:size])  # the same file, so its view is kept
        (session,) = store.sessions(instance="vm-1")
        rows = session.rows()
        assert rows.skipped == 0
        assert set(rows.t_ms.tolist()) >= served
        served = set(rows.t_ms.tolist())
    path.write_bytes(whole)
    (session,) = store.sessions(instance="vm-1")
    assert session.rows().t_ms.tolist() == [one.t_ms for one in written.lives["vm-1", T0].ticks]
