"""Finds the command and the store in a command line: ``read STORE ...`` or ``STORE read ...``.

Strategy: look at the words that are neither flags nor values of flags. The command is the first of them, or
the second after a store. A store after the command is the first word that is a folder with a store; a store
that does not exist is recognized by its slash, or because there is one word too many. argparse then gets
the order that it knows: the command, the store, the other arguments, the flags.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from rondo_tools import command
from rondo_tools.store.format.layout import is_store

NOT_GIVEN = "\0"  # no word of a command line can contain it
_HELP = {"-h", "--help"}


def arrange(parser: command.Parser, argv: Sequence[str]) -> list[str]:
    """The words of `argv` in the order command, store (or NOT_GIVEN), arguments, flags. Exits like the
    parser."""
    words = list(argv)
    commands = parser.commands
    places = _places(words, {flag for one in (parser, *commands.values()) for flag in one.value_flags})
    here = [words[place] for place in places]
    if not here and words:
        return words  # --help, --version, or an error
    first, second = [*here, "", ""][:2]
    if second in commands and (first not in commands or (is_store(first) and not is_store(second))):
        command_at, store_at = places[1], places[0]
    elif first in commands:
        command_at, store_at = places[0], None
    elif _HELP.intersection(words):
        return ["--help"]
    else:
        parser.error(_no_command(here[:2], commands))
    name = words[command_at]
    there = [words[place] for place in places[2:] if is_store(words[place])]
    if store_at is not None and there and not is_store(first):
        meant = shlex.join([parser.prog, there[0], name, first])
        parser.error(f"{first}: no store there, but {there[0]} is one: {meant}")
    if store_at is None:
        places = [place for place in _places(words, commands[name].value_flags) if place != command_at]
        store_at = _find_store(words, places, commands[name].most_arguments)
    store = NOT_GIVEN if store_at is None else words[store_at]
    # argparse takes an optional argument for missing if flags come before it.
    named = [] if "--" in words else _places(words, commands[name].value_flags)
    order = [*named, *(place for place in range(len(words)) if place not in named)]
    rest = [words[place] for place in order if place not in (command_at, store_at)]
    if rest[-1:] == ["--"]:
        rest.pop()
    return [name, f"./{store}" if store.startswith("-") else store, *rest]


def _find_store(words: Sequence[str], places: Sequence[int], most: float) -> int | None:
    """The place of the store among the arguments of a command, if it is there; `most` is their limit."""
    for place in places:
        if is_store(words[place]):
            return place
    if places and (_is_path(words[places[0]]) or len(places) >= most):
        return places[0]
    return None


def _is_path(word: str) -> bool:
    """Whether a word is a path and not a selector: selectors have slashes only in values."""
    return word in (".", "..") or "/" in word.partition("{")[0]


def _no_command(here: Sequence[str], commands: Collection[str]) -> str:
    """The message about words without a command; one may be a store."""
    others = [word for word in here if not is_store(word) and not _is_path(word)]
    for word in others:
        if hint := command.did_you_mean(word, commands):
            return f"there is no command {word!r}{hint}"
    known = ", ".join(commands)
    return f"there is no command {others[-1]!r}: {known}" if others else f"a command is missing: {known}"


def _places(words: Sequence[str], with_values: Collection[str]) -> list[int]:
    """The places of the words that are neither flags nor values of flags."""
    found = []
    is_value = only_words = False
    for place, word in enumerate(words):
        if is_value:
            is_value = False
        elif only_words or not word.startswith("-") or word == "-":
            found.append(place)
        elif word == "--":
            only_words = True
        else:
            is_value = word in with_values
    return found
