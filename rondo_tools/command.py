"""The common part of all command lines: parsing through argh, exit statuses, logging to stderr.

A command is a function whose parameters are declared with ``@arg`` (types given there: argh reads
no annotations once ``@arg`` is used). Standard output is data; messages for people go to standard error as
``rondo-store: message``, in any locale, without characters that could mislead a terminal.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO, TypeVar

import argh
from argh.assembling import NameMappingPolicy
from argh.constants import DEST_FUNCTION

from rondo_tools import __version__, printable
from rondo_tools.errors import EX_OK, EX_TEMPFAIL, EX_USAGE, RondoError, UsageError

# numpy's OpenBLAS, which we never call, starts a thread for each processor when it is loaded: a third of the
# time of a short command. It is set here because this module is loaded before numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

T = TypeVar("T")

EXIT_STATUS = """exit status:
  0   all is well
  64  a flag or an argument is wrong
  65  the input is wrong
  69  something that is needed is missing
  70  an internal error
  75  not done, nothing lost: try again
"""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_REQUIRED = "the following arguments are required: "
_LETTERED = ("--help", "--quiet", "--verbose")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of a description, and adds each default."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if action.default in (None, False, argparse.SUPPRESS, []) or "default" in text:
            return text
        return f"{text} (default: {action.default})"


class Parser(argh.ArghParser):
    """argh's parser with our exit status and error messages."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **kwargs})
        self._commands: Any = None  # argparse's action, once there are any
        self.asked = self.prog  # the command, once its words are parsed
        self.add_argument("-q", "--quiet", action="store_true", help="log only warnings and errors")
        self.add_argument("-v", "--verbose", action="store_true", help="log more")

    def add_argument(self, *names: str, **kwargs: Any) -> argparse.Action:
        # argh gives each option a letter, which changes when options are added: we keep only our own letters.
        if len(names) == 2 and len(names[0]) == 2 and names[1] not in _LETTERED:
            names = names[1:]
        return super().add_argument(*names, **kwargs)

    def set_command(self, function: Callable[..., None]) -> None:
        """Make this the parser of one command: keyword-only parameters are its options."""
        self.set_default_command(function, name_mapping_policy=NameMappingPolicy.BY_NAME_IF_KWONLY)
        self.epilog = f"{self.epilog or ''}\n\n{EXIT_STATUS}".lstrip()
        self.add_argument("--version", action="version", version=f"{self.prog} {__version__}")

    def add_command(self, name: str, **kwargs: Any) -> Parser:
        """Add a command to this one, or to a tool that is no command. Its arguments follow its name."""
        if self._commands is None:
            is_command = DEST_FUNCTION in self._defaults
            self._commands = self.add_subparsers(
                title="commands",
                metavar="[COMMAND]" if is_command else "COMMAND",
                dest="command",
                prog=self.prog,
                required=not is_command,
            )
        parser: Parser = self._commands.add_parser(name, **kwargs)
        return parser

    @property
    def commands(self) -> dict[str, Parser]:
        """The parsers of the commands below, by name."""
        return {} if self._commands is None else dict(self._commands.choices)

    @property
    def flags(self) -> list[str]:
        """All flags, with their dashes."""
        return list(self._option_string_actions)

    @property
    def value_flags(self) -> set[str]:
        """The flags whose value is the next word."""
        return {flag for flag, action in self._option_string_actions.items() if action.nargs is None}

    @property
    def most_arguments(self) -> float:
        """The greatest number of arguments that are neither flags nor values of flags."""
        arguments = self._get_positional_actions()
        is_open = any(one.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE) for one in arguments)
        return math.inf if is_open else len(arguments)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but an unknown argument is an error: the parser of a command knows its flags."""
        self._check_flags(args)
        namespace, left = super().parse_known_args(self._tied(args), namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        name = getattr(namespace, "command", None)
        if name in self.commands:
            if DEST_FUNCTION in self._defaults and args[0] != name:
                self.error(f"{name} comes first, its flags after it: {self.prog} {name}")
            self.asked = self.commands[name].prog
        return namespace, left

    def _tied(self, words: Sequence[str]) -> list[str]:
        """``--range -10m`` as ``--range=-10m``: argparse would take the value for a flag."""
        tied: list[str] = []
        for word in words:
            if tied and tied[-1] in self.value_flags and re.match(r"-\.?[0-9]", word) and "--" not in tied:
                tied[-1] += f"={word}"
            else:
                tied.append(word)
        return tied

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        if action.type is not int:
            return super()._get_value(action, text)
        try:
            return int(text)
        except ValueError:
            raise argparse.ArgumentError(action, f"{text!r} is not a number") from None

    def _check_flags(self, words: Sequence[str]) -> None:
        """Report the first flag that does not exist, before its value is taken for something else."""
        for word in words:
            if word == "--" or word in self.commands:
                return
            flag = word.partition("=")[0]
            # argparse takes a word with a space in it for a value
            if flag.startswith("--") and " " not in word and flag not in self.flags:
                self.error(f"there is no flag {flag}{did_you_mean(flag, self.flags)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        hint = did_you_mean(str(value), choices)
        if action is self._commands:
            raise argparse.ArgumentError(
                None, f"there is no command {value!r}{hint or ': ' + ', '.join(choices)}"
            )
        raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(choices)}{hint}")

    def error(self, message: str) -> NoReturn:
        if not message.endswith("^"):  # only the error of a selector has several lines
            message = message.replace("\n", "\\n")
        message = printable.message(_plain(message))
        hint = "" if "\n" in message else f"{_hint(self.prog)}\n"
        self.exit(EX_USAGE, f"{self.prog}: {message}\n{hint}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message, ``; did you mean --format?``; empty if no known word is similar."""
    import difflib  # only an error needs it

    bare = {one.lstrip("-").lower(): one for one in known}
    near = difflib.get_close_matches(word.lstrip("-").lower(), bare, n=1)
    return f"; did you mean {bare[near[0]]}?" if near else ""


def _plain(message: str) -> str:
    """argparse's messages for missing arguments and values, in our words."""
    if message.startswith(_REQUIRED):
        names = message.removeprefix(_REQUIRED)
        return f"{names} {'are' if ',' in names else 'is'} missing"
    return message.replace(": expected one argument", ": its value is missing")


def _hint(prog: str) -> str:
    return f"try: {prog} --help"


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Make an argparse type of a parser that raises UsageError, so that the message names the flag."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except UsageError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None

    return convert


class _Formatter(logging.Formatter):
    """One line for each message, whatever names are in it; a traceback below it is not changed."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return printable.printable(super().formatMessage(record))


def run(parser: Parser, argv: Sequence[str] | None = None) -> int:
    """Call the command that `argv` names and return the exit status.

    A command returns None; it ends with another status than 0 by raising a RondoError or
    SystemExit. A RondoError becomes one line on standard error; a UsageError adds one that names the
    command's --help. If the reader of our standard output is gone, we end as quietly as by SIGPIPE.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=printable.ERRORS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"{parser.prog}: %(message)s"))
    # force: tests call main() more than once in a process.
    logging.basicConfig(handlers=[handler], level=_level(arguments), force=True)
    for word in arguments:
        if word.startswith("--") and word.endswith("=--"):  # argparse makes an empty list of it
            parser.error(f"argument {word[:-3]}: -- is no value")
    try:
        with _flushed(sys.stdout):
            parser.dispatch(argv=arguments, completion=False)
    except RondoError as exc:
        _complain(parser.prog, str(exc), _hint(parser.asked) if exc.exit_code == EX_USAGE else "")
        return exc.exit_code
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as exc:
        # Errors of files are translated where they enter: a full disk without a file name is standard output.
        where = exc.filename or ("standard output" if exc.errno in _NO_ROOM else "")
        where = f"{where}: " if where else ""
        _complain(parser.prog, f"{where}{exc.strerror or exc}")
        return EX_TEMPFAIL
    finally:
        _settle(sys.stderr)
    return EX_OK


@contextmanager
def _flushed(stream: TextIO | None) -> Iterator[None]:
    """Flush at the end, before any message on standard error.

    Raises BrokenPipeError if the reader is gone, RondoError if a file cannot be written.
    """
    try:
        yield
    finally:
        _settle(stream, is_data=True)


def _settle(stream: TextIO | None, *, is_data: bool = False) -> None:
    """Flush. Data that cannot be written is dropped, else the interpreter would report it at its exit."""
    if stream is None:  # it was closed before we began: ">&-"
        return
    try:
        stream.flush()
    except OSError as exc:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        if is_data and not isinstance(exc, BrokenPipeError):
            raise RondoError(f"standard output: {exc.strerror}", exit_code=EX_TEMPFAIL) from exc
        if is_data:
            raise


def _complain(prog: str, what: str, hint: str = "") -> None:
    lines = [f"{prog}: {printable.message(what)}"]
    if hint and "\n" not in lines[0]:  # else the message shows the error itself
        lines.append(hint)
    if sys.stderr is not None:  # print() would take standard output instead
        try:
            print(*lines, sep="\n", file=sys.stderr)
        except OSError:
            pass  # standard error has no reader; the exit status remains


def _level(arguments: Sequence[str]) -> int:
    if "--quiet" in arguments or "-q" in arguments:
        return logging.WARNING
    return logging.DEBUG if "--verbose" in arguments or "-v" in arguments else logging.INFO
