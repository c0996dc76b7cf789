"""What the store needs from a database engine; SQLite and PostgreSQL give it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, RootTransaction

READERS_MAX: Final = 15
"""Connections of one process that read at the same time."""


class Database(Protocol):
    """One database, and all in which its engine differs from others."""

    @property
    def title(self) -> str:
        """What messages call it; it holds no secret."""

    @property
    def reading(self) -> Engine:
        """Connections whose transactions are consistent views."""

    @property
    def writing(self) -> Engine:
        """The one connection of this process that writes; others wait for it here."""

    @property
    def epoch(self) -> ColumnElement[str]:
        """What SQL gives another value for once the database may have lost writes.

        NULL once it takes no writes any more.
        """

    def check(self) -> None:
        """Find out what no statement would tell.

        Raises:
            StoreUnavailableError: this is not the database any more that was opened.
        """

    def become_only_writer(self, connection: Connection) -> int:
        """Keep all other writers out until the end of the transaction.

        Returns:
            What :meth:`announce` needs.
        """

    def become_only_upgrader(self, connection: Connection) -> None:
        """The same for a database that has no tables yet."""

    def alone_at_setup(self) -> AbstractContextManager[None]:
        """Keep others from setting up an installation in it; see ``SqlStore``."""

    def announce(self, connection: Connection, *, since: int) -> None:
        """Let every process hear at the commit, if the transaction has counted a write.

        Args:
            connection: inside the transaction.
            since: what :meth:`become_only_writer` returned.
        """

    def commit(self, transaction: RootTransaction) -> None:
        """Commit, inside :meth:`errors`.

        Raises:
            StoreUnconfirmedError: nobody knows whether the commit was made.
        """

    def leave_server(self) -> None:
        """Have every connection made anew."""

    def flush(self, connection: Connection) -> None:
        """Write what lies beside the database's file into it, as far as readers allow.

        Args:
            connection: without a transaction.
        """

    def version(self) -> int:
        """Return a number that is another one after any commit; never raises."""

    def written(self) -> None:
        """Take note that this process has committed what it announced."""

    def scrub(self, connection: Connection) -> bool:
        """Overwrite what deleted rows have left, where that is possible.

        Args:
            connection: without a transaction.

        Returns:
            Whether it was done; somebody may be reading it still.
        """

    def errors(self) -> AbstractContextManager[None]:
        """Turn what the driver raises in the block into a ``StoreUnavailableError``.

        The SQL in the driver's texts must not travel further.
        """

    def close(self) -> None:
        """Close all connections."""
