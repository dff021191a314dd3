"""The programs that tests want: docs/testing.md has them all, and `make test` fetches them first."""

from __future__ import annotations

import pytest

from devtools import ROOT
from devtools.programs import For
from tests.support.program_users import LISTED, PAGE, programs_of, users, with_table
from tests.support.quick import Name


@pytest.mark.parametrize(
    ("path", "test", "programs"),
    [
        # through the fixture of tests/conftest.py
        (
            "scripts/test_pipeline.py",
            "test_every_second_of_a_vm_reaches_prometheus",
            {"prometheus", "promtool"},
        ),
        ("scripts/test_pipeline.py", "test_a_vm_drives_every_series", set()),
        ("vmm/test_acpi.py", "test_the_reference_compiler_reads_the_same_tables", {"iasl"}),
    ],
)
def test_the_programs_of_a_test_are_found(path: str, test: str, programs: set[str]) -> None:
    assert programs_of([Name(ROOT / "tests" / path, test)]) == programs


@pytest.mark.heavy
def test_the_page_has_them_as_they_are() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "run: python -m tests.support.program_users"


@pytest.mark.heavy
def test_make_test_fetches_the_programs_of_its_tests() -> None:
    wanted = {name for name, of in users().items() if of[For.TEST]}
    assert {name for name, one in LISTED.items() if one.target is For.TEST} == wanted
    of_long = {name for name, of in users().items() if of[For.LONG] and not of[For.TEST]}
    assert {name for name, one in LISTED.items() if one.target is For.LONG} == of_long
