"""One error tree: what a user can cause carries a message for them and an exit status.

An error of the operating system is translated where it enters (``raise StoreError(...) from exc``);
``command.run`` prints the message, without a traceback, and exits with the status.
"""

# sysexits(3h); the statuses that the tools document.
EX_OK = 0
EX_USAGE = 64  # you erred: a flag or an argument
EX_DATAERR = 65  # your peer erred: a stream, a store or a cursor that is not what it should be
EX_UNAVAILABLE = 69  # something that is needed is not there
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
    """A flag or argument that cannot be meant."""

    exit_code = EX_USAGE


class StreamError(RondoError):
    """Bytes that are not a rondo stream; `offset` is where the offending message begins."""

    exit_code = EX_DATAERR

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(f"stream, byte {offset}: {message}")
        self.offset = offset


class VmError(RondoError):
    """The VM cannot be made, or cannot go on."""


class StoreError(RondoError):
    """A store that cannot be read or written as asked."""

    exit_code = EX_DATAERR


class PushError(RondoError):
    """A delivery that cannot go on; by default one that is worth another try."""

    exit_code = EX_TEMPFAIL
