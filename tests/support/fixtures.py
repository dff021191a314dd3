"""The types of what fixtures give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from typing import IO, Protocol, TypedDict, Unpack


class ProcessOptions(TypedDict, total=False):
    """What tests set of a process: arguments of subprocess.Popen."""

    stdin: int | IO[bytes] | None
    stdout: int | IO[bytes]
    stderr: int | IO[bytes]
    cwd: Path
    env: Mapping[str, str]
    preexec_fn: Callable[[], object]


PIPES: ProcessOptions = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}


class RunOptions(ProcessOptions, total=False):
    """What tests set of a process that runs to its end: arguments of subprocess.run."""

    input: bytes
    capture_output: bool


class Start(Protocol):
    """Fixtures that start a program; it does not outlive the test."""

    def __call__(self, *arguments: str | Path, **options: Unpack[ProcessOptions]) -> Popen[bytes]: ...


class Run(Protocol):
    """`run`: a command of rondo's, to its end."""

    def __call__(
        self, *command: str | bytes | Path, **options: Unpack[RunOptions]
    ) -> CompletedProcess[bytes]: ...


Query = Run
"""`query`: rondo-query, to its end."""
