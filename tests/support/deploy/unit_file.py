"""Reads the features of systemd's unit files that ours use: a service's command line (systemd.service(5)).

It is only for running the units' lines without systemd; `systemd-analyze verify` checks them.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path


class Unit:
    """The settings of a unit file, by section and name, each with all its values in order."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._settings: dict[tuple[str, str], list[str]] = defaultdict(list)
        section = ""
        for line in path.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line and not line.startswith("#"):
                name, _, value = line.partition("=")
                self._settings[section, name].append(value)

    def all(self, section: str, name: str) -> list[str]:
        return self._settings[section, name]

    def one(self, section: str, name: str) -> str:
        """A setting that is there exactly once."""
        (value,) = self.all(section, name)
        return value

    def command(self, specifiers: dict[str, str]) -> list[str]:
        """The words of ExecStart=, with variables from Environment= and the files of EnvironmentFile=."""

        def expanded(text: str) -> str:
            return re.sub(r"%(.)", lambda found: specifiers[found[1]], text)

        variables: dict[str, str] = {}
        for line in self.all("Service", "Environment"):
            variables |= dict(word.split("=", 1) for word in shlex.split(expanded(line)))
        for name in self.all("Service", "EnvironmentFile"):
            variables |= environment(Path(expanded(name).removeprefix("-")))
        words: list[str] = []
        for word in shlex.split(expanded(self.one("Service", "ExecStart"))):
            if re.fullmatch(r"\$\w+", word):  # is split into words
                words += shlex.split(variables[word[1:]])
            else:
                words.append(re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word))
        return words


def environment(path: Path) -> dict[str, str]:
    """The variables of a file for EnvironmentFile=."""
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
