"""The laboratory itself: input, output, and failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools import lab
from tests.support.needs import LAB_S

Run = Callable[..., lab.Result]
ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_command_runs_and_returns_its_results(in_lab: Run) -> None:
    seen: list[bytes] = []
    command = """
        cat /in/words/one; echo to the other >&2; printf '\\0\\r\\n\\377'
        cp -r /in/words /out/; python3 -c 'import numpy, snappy, rondo_tools.push.encoding.v1' && exit 7
    """
    result = in_lab(command, {"words/one": b"one\n"}, stdout=seen.append, timeout_s=LAB_S)
    assert result == (7, b"one\n\0\r\n\xff", b"to the other\n", {"words/one": b"one\n"})
    assert b"".join(seen) == result.stdout


def test_the_built_in_guest_runs_on_its_kvm(in_lab: Run) -> None:
    result = in_lab("rondo-vmm --accel kvm --duration 1s --text", timeout_s=LAB_S)
    assert result.status == 0, result.stderr
    assert b"# end poweroff" in result.stdout


def test_a_crashed_or_hanging_laboratory_is_an_error(in_lab: Run) -> None:
    with pytest.raises(lab.LabError, match=r"(?s)crashed.*sysrq: Trigger a crash"):
        in_lab("echo c >/proc/sysrq-trigger", timeout_s=LAB_S)
    with pytest.raises(lab.LabError, match="did not end within 2 s"):
        in_lab("sleep 1000", timeout_s=2)


def test_the_command_returns_output_files_and_status(in_lab: Run, tmp_path: Path) -> None:
    command = "echo out; echo err >&2; echo file >/out/file; exit 5"
    ran = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts" / "lab.py",
            "run",
            "--timeout",
            str(LAB_S),
            "--out",
            tmp_path / "found",
            command,
        ],
        capture_output=True,
        timeout=LAB_S,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, b"out\n", b"err\n")
    assert (tmp_path / "found" / "file").read_bytes() == b"file\n"
