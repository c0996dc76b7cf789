"""What ends a command, as an exit code and one message; the only such table of this face."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from keycore.errors import (
    AccessError,
    CiphertextRejectedError,
    ConflictError,
    IntegrityError,
    InvalidRequestError,
    KeyplaneError,
    NotFoundError,
    SetupError,
    UnavailableError,
)


class ExitCode(IntEnum):
    """How ``keyplane`` ends; scripts rely on these numbers."""

    OK = 0
    REFUSED = 1
    """The request cannot be granted as it is; repeating it is useless."""

    SETUP = 2
    """The command line or the installation must be mended by hand."""

    UNAVAILABLE = 3
    """Something does not answer now; the same command may succeed later."""

    INTEGRITY = 4
    """A record of the store is not what the HSM signed."""

    INTERNAL = 70
    """A fault of keyplane itself (``EX_SOFTWARE`` of ``sysexits.h``)."""

    STUCK = 75
    """A call inside the HSM did not return, and the process ended without it."""

    TAKEN_OVER = 76
    """Another process has taken the socket over, and nobody shall start this one again."""

    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT)."""

    READER_GONE = 141
    """Whoever read the output has ended, such as ``head`` (128 + SIGPIPE)."""


EXIT_CODES: Mapping[type[KeyplaneError], ExitCode] = {
    SetupError: ExitCode.SETUP,
    InvalidRequestError: ExitCode.REFUSED,
    AccessError: ExitCode.REFUSED,
    NotFoundError: ExitCode.REFUSED,
    ConflictError: ExitCode.REFUSED,
    CiphertextRejectedError: ExitCode.REFUSED,
    IntegrityError: ExitCode.INTEGRITY,
    UnavailableError: ExitCode.UNAVAILABLE,
}
"""Each branch of the tree of errors; the classes below a branch end like it."""


def exit_code_of(error: KeyplaneError) -> ExitCode:
    """Return the exit code of the nearest class in the table."""
    mapped = (EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES)
    return next(mapped, ExitCode.INTERNAL)


def describe(message: str, hint: str = "") -> str:
    """Return the text for standard error: what is wrong, and what to do about it."""
    return f"error: {message}" + (f"\n  fix: {hint}" if hint else "")


INTERNAL_MESSAGE = describe(
    "keyplane met a fault of its own and stopped",
    "run the command again with --debug and report what it prints",
)
"""Fixed, because the text of an unexpected exception may hold anything."""
