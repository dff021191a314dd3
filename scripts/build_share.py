#!/usr/bin/env python3
"""Make the files of share/ from the parsers: man pages, and completion for bash, zsh and fish.

    scripts/build_share.py build/share

A tool is a line of [project.scripts] in pyproject.toml; its package has cli.make_parser(). Needs
argparse-manpage and shtab. hatch_build.py uses it for sdist and wheel, `make man` by hand. Its output is not
committed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import tomllib
from pathlib import Path
from unittest import mock

import shtab
from argparse_manpage.manpage import Manpage, _ManpageFormatter

ROOT = Path(__file__).resolve().parent.parent
EX_USAGE = 64

COMPLETION = {
    "bash": "bash-completion/completions/{tool}",
    "zsh": "zsh/site-functions/_{tool}",
    "fish": "fish/vendor_completions.d/{tool}.fish",
}
# Completion by the metavar in the help.
_FILES = re.compile(r"\b(FILE|PATH)\b")
_FOLDERS = re.compile(r"\b(DIR|STORE)\b")


def tools() -> list[str]:
    """The names of all tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["scripts"])


def parser_of(tool: str) -> argparse.ArgumentParser:
    package = tool.removeprefix("rondo-").replace("-", "_")
    parser = importlib.import_module(f"rondo_tools.{package}.cli").make_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


class _Roff(_ManpageFormatter):  # type: ignore[misc]
    @staticmethod
    def format_text(text: str) -> str:
        """Text as roff. Usage and indented text, such as examples, keep their lines."""
        lines: list[str] = []
        is_kept = False
        for line in text.strip("\n").splitlines():
            keep = line.startswith((" ", "usage: ")) or (is_kept and not line)
            if keep != is_kept:
                # An empty line ends the example, because .EE makes none.
                while is_kept and lines[-1] == "":
                    lines.pop()
                lines += [".EX"] if keep else [".EE", ".PP"]
                is_kept = keep
            if line or keep:
                lines.append(_escaped(line))
            else:
                lines.append(".PP")
        while lines[-1] in ("", ".PP"):
            lines.pop()
        return "\n".join([*lines, ".EE"] if is_kept else lines)


def _escaped(line: str) -> str:
    line = line.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("^", r"\(ha")
    line = line.replace("~", r"\(ti").replace("`", r"\(ga")
    return rf"\&{line}" if line.startswith(".") else line


def man_page(tool: str) -> str:
    from rondo_tools import __version__

    parser = parser_of(tool)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    summary, exit_status = str(parser.description).split("\n\n")[0], str(parser.epilog)
    parser.epilog = None
    about = {
        "project_name": "rondo",
        "version": __version__,
        "manual_title": "User Commands",
        "description": " ".join(summary.split()).rstrip("."),
    }
    page = Manpage(parser, about, format="single-commands-section")
    page.mf = _Roff(tool, parser._get_formatter(), format=page.format)
    page.synopsis[1:] = [_escaped(word) for word in page.synopsis[1:]]
    page.add_section("exit status", "=", _Roff.format_text(exit_status))
    others = ", ".join(f"\\fB{_escaped(other)}\\fR(1)" for other in tools() if other != tool)
    page.add_section("see also", "=", others)
    first, *lines = str(page).splitlines()
    text = [first.replace(r"\-", "-"), ".ad l", ".nh"]  # ragged right, and no hyphenation of commands
    for line in lines:
        if line in ("arguments:", "options:"):
            text.append(".PP")
        if line:  # an empty line is not a paragraph in roff
            text.append(line)
    return "\n".join(text) + "\n"


def completion(tool: str, shell: str) -> str:
    parser = parser_of(tool)
    _prepare(parser)
    return shtab.complete(parser, shell).rstrip("\n") + "\n"


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Prepare for shtab: which arguments are files or folders, and short descriptions of commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action._choices_actions:
                action.choices[one.dest].description = one.help
                _prepare(action.choices[one.dest])
        elif _FILES.search(str(action.metavar)):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif _FOLDERS.search(str(action.metavar)):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def build(share: Path) -> list[Path]:
    """Write all files below `share`. Returns their paths, relative to it."""
    texts = {}
    with mock.patch.dict(os.environ, COLUMNS="78"):  # argparse wraps the usage at it
        for tool in tools():
            texts[f"man/man1/{tool}.1"] = man_page(tool)
            for shell, path in COMPLETION.items():
                texts[path.format(tool=tool)] = completion(tool, shell)
    for path, text in texts.items():
        (share / path).parent.mkdir(parents=True, exist_ok=True)
        (share / path).write_text(text, encoding="utf-8")
    return [Path(path) for path in texts]


def main(argv: list[str]) -> int:
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: build_share.py FOLDER", file=sys.stderr)
        return EX_USAGE
    for path in build(Path(argv[0])):
        print(Path(argv[0]) / path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
