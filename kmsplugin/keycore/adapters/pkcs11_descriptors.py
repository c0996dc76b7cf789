"""Keeps a module's second close of a file descriptor from hitting somebody else's.

openCryptoki 3.8.1 opens a lock file when it is loaded and closes it in every
`C_Finalize`, so from the second one on it closes whatever has got that number since: a
listening socket, a database. What `C_Finalize` closes therefore gets a descriptor of
`/dev/null` in its place, and nothing that matters ever has the number.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_OURS: Final = Path("/proc/self/fd")


@contextmanager
def closed_numbers_are_held() -> Iterator[None]:
    """Occupy every descriptor number that is closed within the block.

    Another thread that closes a file of its own meanwhile loses no more than that number.
    """
    before = _open_numbers()
    try:
        yield
    finally:
        for number in before:
            if not _is_open(number):
                _occupy(number)


def _open_numbers() -> list[int]:
    listed = [int(entry.name) for entry in _OURS.iterdir()]
    # Reading the directory took a descriptor too, which is closed by now.
    return [number for number in listed if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _occupy(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    if nowhere == number:
        return
    held = fcntl.fcntl(nowhere, fcntl.F_DUPFD_CLOEXEC, number)
    os.close(nowhere)
    if held != number:
        # Somebody was quicker, and it is theirs now.
        os.close(held)
