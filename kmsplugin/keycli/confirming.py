"""Asks before something is destroyed."""

from __future__ import annotations

import sys

from keycore.errors import InvalidRequestError


def confirm_by_name(name: str, *, lost: str) -> None:
    """Let the person at the terminal type a name; anything else ends the command.

    The question goes to standard error, since standard output belongs to the answer.

    Args:
        name: what has to be typed.
        lost: what will be gone, as whole sentences.

    Raises:
        InvalidRequestError: something else was typed, or nobody is there to type.
    """
    sys.stderr.write(f"{lost}\nType the name {name!r} to go on: ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    if answer.strip() != name.strip():
        raise InvalidRequestError(
            "not confirmed; nothing was changed", hint="type the name, or give --yes"
        )
