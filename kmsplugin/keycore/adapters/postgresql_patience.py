"""How long callers wait for PostgreSQL, and that not everybody waits again for the same silence.

``PostgresqlDatabase.errors`` begins a caller's patience. Waiting for a connection of the pool,
proving it and opening another one use it up: ``BoundedConnection.wait`` and ``Route.connect``
read what is left. The pool ends it when it gives a connection away; from then on each answer
has the connection's own deadline.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import psycopg
from psycopg import errors

from keycore.errors import StoreUnavailableError

SILENCE_SECONDS: Final = 1.0
"""How long after a wait in vain nobody else waits."""


class SilentError(psycopg.OperationalError):
    """The server has not answered in time; whoever asks now would wait as long."""


class Patience(threading.local):
    """How long this thread may still wait until it has a connection to work with.

    What it waits for adds up: for others to give theirs back, for the answer that shows
    whether that one still works, and for a new one. A caller waits for all of it.

    Attributes:
        was_vain: whether it was the server that let this thread wait.
    """

    was_vain = False
    _until: float | None = None

    def begin(self, seconds: float) -> None:
        """Let it last for so long."""
        self._until = time.monotonic() + seconds
        self.was_vain = False

    def end(self) -> None:
        """There is a connection, or nobody waits for one any more."""
        self._until = None

    def left(self, otherwise: float) -> float:
        """Return the seconds that are left, or ``otherwise`` where nothing was begun."""
        return otherwise if self._until is None else self._until - time.monotonic()


patience: Final = Patience()


class Silence:
    """Remembers that somebody has waited in vain.

    Callers queue up before threads, and threads before connections. If each of them waited
    for the whole deadline, the last one would wait for many of them.
    """

    def __init__(self, kinds: tuple[type[BaseException], ...], told: str, *, hint: str) -> None:
        """Expect answers.

        Args:
            kinds: the errors that are a wait in vain.
            told: what those are told who do not have to wait.
            hint: what to do about it.
        """
        self._kinds = kinds
        self._told = told
        self._hint = hint
        self._until = float("-inf")

    def refuse(self) -> None:
        """Let nobody wait while another wait in vain is not long ago.

        Raises:
            StoreUnavailableError: it is not.
        """
        if time.monotonic() < self._until:
            raise StoreUnavailableError(self._told, hint=self._hint)

    def note(self, error: BaseException | None) -> None:
        """Take note of an error, which may be a wait in vain."""
        if isinstance(error, self._kinds):
            self._until = time.monotonic() + SILENCE_SECONDS


def of_server() -> Silence:
    """Return what remembers that the server said nothing."""
    return Silence(
        (SilentError, errors.ConnectionTimeout),
        "the store did not answer a moment ago",
        hint="check that PostgreSQL runs and is reached",
    )


def of_writers() -> Silence:
    """Return what remembers that another writer kept a lock for too long."""
    return Silence(
        (errors.LockNotAvailable, errors.QueryCanceled),
        "somebody kept all writers of the store waiting a moment ago",
        hint="look for long transactions in pg_stat_activity",
    )
