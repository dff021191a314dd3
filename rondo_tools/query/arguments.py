"""Which word of a command line is the command, and which the store: ``read STORE ...`` or ``STORE read ...``.

Strategy: look at the words that are neither flags nor values of flags. The command is the first of them,
or the second after a store. A store that stands after the command is the first folder with a store in
it; one that is not there is told by its slash, or by being a word too many. argparse then gets the one
order that it knows: the command, the store, the other arguments, the flags.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from rondo_tools import command
from rondo_tools.store.format.layout import is_store

NOT_GIVEN = "\0"  # no word of a command line holds it
_HELP = {"-h", "--help"}


def arrange(parser: command.Parser, argv: Sequence[str]) -> list[str]:
    """The words of `argv`: the command, the store (or NOT_GIVEN), its arguments, flags. Exits as the parser
    does."""
    words = list(argv)
    commands = parser.commands
    places = _places(words, {flag for one in (parser, *commands.values()) for flag in one.value_flags})
    here = [words[place] for place in places]
    if not here and words:
        return words  # --help, --version, or what is wrong
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
    # argparse takes an optional argument for missing if flags stand before it.
    named = [] if "--" in words else _places(words, commands[name].value_flags)
    order = [*named, *(place for place in range(len(words)) if place not in named)]
    rest = [words[place] for place in order if place not in (command_at, store_at)]
    if rest[-1:] == ["--"]:
        rest.pop()
    return [name, f"./{store}" if store.startswith("-") else store, *rest]


def _find_store(words: Sequence[str], places: Sequence[int], most: float) -> int | None:
    """Where the store stands among the arguments of a command, if it does; `most` is how many it takes."""
    for place in places:
        if is_store(words[place]):
            return place
    if places and (_is_path(words[places[0]]) or len(places) >= most):
        return places[0]
    return None


def _is_path(word: str) -> bool:
    """Whether a word is a path, and no selector: these have slashes in values only."""
    return word in (".", "..") or "/" in word.partition("{")[0]


def _no_command(here: Sequence[str], commands: Collection[str]) -> str:
    """The message about words of which none is a command; one may be a store."""
    others = [word for word in here if not is_store(word) and not _is_path(word)]
    for word in others:
        if hint := command.did_you_mean(word, commands):
            return f"there is no command {word!r}{hint}"
    known = ", ".join(commands)
    return f"there is no command {others[-1]!r}: {known}" if others else f"a command is missing: {known}"


def _places(words: Sequence[str], with_values: Collection[str]) -> list[int]:
    """Where the words stand that are neither flags nor values of flags."""
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
