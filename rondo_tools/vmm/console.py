"""The output for the guest's console: ``--serial`` is ``-``, ``none`` or a file."""

from __future__ import annotations

from rondo_tools.producer.destination import open_file, standard
from rondo_tools.producer.pipe import Pipe
from rondo_tools.vmm.output import NOTICES, OutputThread


def open_console(spec: str) -> OutputThread | None:
    """The output for the guest's console; None discards it."""
    if spec == "none":
        return None
    if spec == "-":
        console = Pipe(standard(2, "error"), "the guest's console", items="lines", notices=NOTICES)
        return OutputThread(console)
    return OutputThread(open_file("--serial", spec, items="lines", notices=NOTICES))
