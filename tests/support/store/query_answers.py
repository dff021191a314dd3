"""The output of rondo-query about a store, for a test that compares two: `python query_answers.py STORE`.

One JSON object: each command line, without the store, with its exit status, standard output and standard
error. Parts that depend on the present time, or on the number of files, are left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

from rondo_tools.query import cli
from rondo_tools.store.reader import Store

INCIDENTAL = re.compile(r'"age_s": *-?[0-9.]+|\d+ files?')
Answers = dict[str, tuple[int, str, str]]


def commands(store: Path) -> list[list[str]]:
    """The command lines: every command that ends, for each tier, in each format."""
    listed = ["list", "--format", "json", "--unix", "--sort"]
    found = [["check"], ["stream"], *([*listed, field] for field in ("session", "ticks", "last", "state"))]
    opened = Store(store)
    for tier in range(len(opened.tiers)):
        at = ["--tier", str(tier), "--unix", "{}"]
        found.append(["read", "--format", "csv", *at])
        found.append(["read", "--rate", "--format", "csv", *at[:-1], '{__name__=~".+_total"}'])
        found += [["export", "--format", name, *at] for name in ("jsonl", "openmetrics")]
        if tier:
            found += [["read", "--format", "csv", "--aggregate", one, *at] for one in ("min", "max")]
    for session in opened.sessions():
        found.append(["stream", f'{{instance="{session.instance}"}}'])
    return [one for n, one in enumerate(found) if one not in found[:n]]


def ask(store: Path, argv: list[str]) -> tuple[int, str, str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(store), *argv])
        out.flush()
        err.flush()
    printed = [one.buffer.getvalue().decode("latin-1") for one in (out, err)]
    return status, INCIDENTAL.sub("", printed[0]), INCIDENTAL.sub("", printed[1].replace(str(store), "STORE"))


def answers(store: Path) -> Answers:
    return {" ".join(argv): ask(store, argv) for argv in commands(store)}


if __name__ == "__main__":
    json.dump(answers(Path(sys.argv[1])), sys.stdout)
