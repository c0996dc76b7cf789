"""SQLite: a store embedded as one file of this host."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    RootTransaction,
    create_engine,
    event,
    literal,
    text,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from keycore.adapters.sql_database import READERS_MAX
from keycore.errors import StoreUnavailableError

BUSY_SECONDS: Final = 5
"""How long a writer waits for another one before the store counts as unavailable."""


class SqliteDatabase:
    """One file, with as many readers as there are and one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Use the file at ``path``; the first transaction makes it when it is missing."""
        self._path = path
        self._identity = _identity(path)
        self._reading = _engine(path, begin="BEGIN", connections=READERS_MAX)
        # A writer takes the lock at once, so what it reads is what it will replace. Those
        # who wait for it wait for its connection, and take none from those who read.
        self._writing = _engine(path, begin="BEGIN IMMEDIATE", connections=1)
        self._watcher: sqlite3.Connection | None = None
        self._watcher_lock = threading.Lock()
        self._version = 0

    @property
    def title(self) -> str:
        """What messages call it."""
        return str(self._path)

    @property
    def reading(self) -> Engine:
        """Connections whose transactions are consistent views."""
        return self._reading

    @property
    def writing(self) -> Engine:
        """The one connection of this process that writes."""
        return self._writing

    @property
    def epoch(self) -> ColumnElement[str]:
        """Nothing: a file that was replaced is not read at all."""
        return literal("")

    def check(self) -> None:
        """Find out whether the file is still the one that was opened.

        An open file lives on when it is moved or replaced, and what is written to it
        would be seen by nobody.

        Raises:
            StoreUnavailableError: it is not.
        """
        if _identity(self._path) != self._identity:
            raise StoreUnavailableError(
                f"the store's file {self._path} was removed or replaced",
                hint="put it back, or restart keyplane to use the new one",
            )

    def become_only_writer(self, connection: Connection) -> int:  # noqa: ARG002 - BEGIN did it.
        """Look once more whether the file is still there, now that nobody else writes.

        Raises:
            StoreUnavailableError: it was taken away while this writer waited.
        """
        self.check()
        return 0

    def become_only_upgrader(self, connection: Connection) -> None:
        """Do nothing, likewise."""

    @contextmanager
    def alone_at_setup(self) -> Iterator[None]:
        """Do nothing: whoever sets up has locked the state directory, in which the file is."""
        yield

    def announce(self, connection: Connection, *, since: int) -> None:
        """Do nothing: SQLite counts commits by itself."""

    def commit(self, transaction: RootTransaction) -> None:
        """Commit; if that fails, it was not made."""
        transaction.commit()

    def leave_server(self) -> None:
        """Do nothing: there is none."""

    def flush(self, connection: Connection) -> None:
        """Write the log back into the file; it needs no lock that a writer has."""
        connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))

    def version(self) -> int:
        """Return a number that is another one after any commit, of other processes too.

        SQLite counts them in memory that all processes share (``PRAGMA data_version``),
        so this takes a few microseconds and no disk. It does not count commits of the
        asking connection, which therefore makes none.
        """
        with self._watcher_lock, suppress(sqlite3.Error):
            if self._watcher is None:
                self._watcher = sqlite3.connect(
                    self._path, isolation_level=None, check_same_thread=False
                )
            self._version = self._watcher.execute("PRAGMA data_version").fetchone()[0]
        return self._version

    def written(self) -> None:
        """Do nothing: SQLite counts the commits of this process too."""

    def scrub(self, connection: Connection) -> bool:
        """Write the log back into the file and truncate it.

        ``secure_delete`` overwrites deleted bytes in the database file alone; the
        write-ahead log would keep the page as it was before.
        """
        return not connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()[0]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the driver raises into a ``StoreUnavailableError``."""
        try:
            yield
        except DBAPIError as error:
            raise StoreUnavailableError(
                f"the store did not answer: {error.orig}",
                hint="check the disk and the permissions of the state directory",
            ) from None
        except SQLAlchemyError as error:
            raise StoreUnavailableError(
                f"the store did not answer ({type(error).__name__})"
            ) from None

    def close(self) -> None:
        """Close all connections."""
        with self._watcher_lock:
            if self._watcher is not None:
                self._watcher.close()
        self._reading.dispose()
        self._writing.dispose()


def _engine(path: Path, *, begin: str, connections: int) -> Engine:
    engine = create_engine(
        # From parts, since a path may hold what means something in a URL.
        URL.create("sqlite", database=str(path)),
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: Any) -> None:
        # The driver's own BEGIN comes too late for a consistent read; see _begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            # An acknowledged write survives a power cut.
            "synchronous=FULL",
            "secure_delete=ON",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        # Not there, or in a directory that may not be entered any more.
        return None
    return status.st_dev, status.st_ino
