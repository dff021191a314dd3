"""One error tree: an error that a user can cause has a message for the user and an exit status.

An error of the operating system is translated where it enters (``raise StoreError(...) from exc``);
``command.run`` prints the message, without a traceback, and exits with the status.
"""

# sysexits(3h); the statuses that the tools document.
EX_OK = 0
EX_USAGE = 64  # the user's error: a flag or an argument
EX_DATAERR = 65  # the peer's error: an invalid stream, store or cursor
EX_UNAVAILABLE = 69  # something that is needed is missing
EX_SOFTWARE = 70  # an internal error, of KVM or of rondo
EX_TEMPFAIL = 75  # nothing is lost; try again later


class RondoError(Exception):
    """Base of all errors with a message for the user; `exit_code` is the process' exit status."""

    exit_code = EX_SOFTWARE

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(RondoError):
    """An invalid flag or argument."""

    exit_code = EX_USAGE


class StreamError(RondoError):
    """Bytes that are not a rondo stream; `offset` is the begin of the invalid message."""

    exit_code = EX_DATAERR

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(f"stream, byte {offset}: {message}")
        self.offset = offset


class VmError(RondoError):
    """The VM cannot be made, or cannot continue."""


class StoreError(RondoError):
    """A store that cannot be read or written."""

    exit_code = EX_DATAERR


class PushError(RondoError):
    """A delivery that cannot continue; by default one to try again."""

    exit_code = EX_TEMPFAIL
