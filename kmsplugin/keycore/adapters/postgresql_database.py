"""PostgreSQL: a store for several hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg
from psycopg.errors import InsufficientPrivilege, LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Engine,
    RootTransaction,
    case,
    column,
    create_engine,
    event,
    func,
    literal_column,
    null,
    select,
    table,
)
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from keycore.adapters import sql_tables as t
from keycore.adapters.postgresql_connection import (
    TAKES_NO_WRITES,
    BoundedConnection,
    Route,
    reason_of,
)
from keycore.adapters.postgresql_listener import CHANNEL, Listener
from keycore.adapters.postgresql_patience import of_server, of_writers, patience
from keycore.adapters.sql_database import READERS_MAX
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.errors import SettingsError, StoreUnavailableError, StoreUnconfirmedError

_UPGRADE_LOCK: Final = 0x6B6579706C616E65
"""Any number that nobody else takes; these are the letters of keyplane."""

_SETUP_LOCK: Final = _UPGRADE_LOCK + 1

_EPOCH: Final[ColumnElement[str]] = case(
    (literal_column(TAKES_NO_WRITES, Boolean), null()),
    else_=func.concat_ws(
        ":",
        func.date_part("epoch", func.pg_postmaster_start_time()),
        select(column("oid"))
        .select_from(table("pg_database"))
        .where(column("datname") == func.current_database())
        .scalar_subquery(),
        # A restored table is another file, even where the database is the same.
        func.pg_relation_filenode(literal_column(f"'{t.changes.name}'")),
    ),
)


class PostgresqlDatabase:
    """One database on a server, or on the one of several that takes writes."""

    def __init__(self, place: PostgresqlPlace) -> None:
        """Use the database; nothing is connected before the first transaction."""
        self._place = place
        self._route = Route(place)
        self._silence = of_server()
        self._busy = of_writers()
        self._server = 0
        self._was_connected = False
        self._reading = self._engine(
            READERS_MAX, isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._writing = self._engine(1, isolation_level="READ COMMITTED")
        self._listener: Listener | None = None
        self._lock = threading.Lock()

    @property
    def title(self) -> str:
        """What messages call it."""
        return self._place.title

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
        """When the server was started, and which table of which database it is.

        It tells a promoted standby from the old primary, and a restored database from the
        one before. NULL where the server takes no writes any more.
        """
        return _EPOCH

    def check(self) -> None:
        """Do nothing: a connection belongs to the server that it was opened to."""

    def become_only_writer(self, connection: Connection) -> int:
        """Lock the row that every write changes.

        Numbers of writes are then in the order of their commits, and what a writer
        reads is what it will replace, as with the embedded store.
        """
        self._busy.refuse()
        # Without that one row there would be no lock, so it must be there.
        locked = select(t.changes.c.sequence).with_for_update()
        try:
            newest: int = connection.execute(locked).scalar_one()
        except DBAPIError as error:
            self._busy.note(error.orig)
            raise
        return newest

    def become_only_upgrader(self, connection: Connection) -> None:
        """Take a lock that needs no table."""
        connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))

    @contextmanager
    def alone_at_setup(self) -> Iterator[None]:
        """Hold a lock of a session that does nothing else, and ends it by its own end."""
        with ExitStack() as stack:
            with self.errors():
                connection = stack.enter_context(self._reading.connect())
                stack.callback(connection.invalidate)
                session = connection.execution_options(isolation_level="AUTOCOMMIT")
                session.execute(select(func.pg_advisory_lock(_SETUP_LOCK)))
            yield

    def announce(self, connection: Connection, *, since: int) -> None:
        """Have the server notify all listeners at the commit."""
        counted = t.changes.c.sequence > since
        connection.execute(select(func.pg_notify(CHANNEL, "")).where(counted))

    def commit(self, transaction: RootTransaction) -> None:
        """Commit; the answer can be lost on its way.

        A warning says that no standby has confirmed it, although it should have.

        Raises:
            StoreUnconfirmedError: the answer was lost, or came with a warning.
        """
        driver = transaction.connection.connection.driver_connection
        if not isinstance(driver, BoundedConnection):
            raise TypeError(type(driver))
        driver.was_warned = False
        try:
            transaction.commit()
        except DBAPIError as error:
            self._silence.note(error.orig)
            raise _unconfirmed() from None
        if driver.was_warned:
            raise _unconfirmed()

    def leave_server(self) -> None:
        """Have every connection made anew: another server takes the writes now."""
        self._server += 1
        if self._listener is not None:
            self._listener.leave_server()

    def version(self) -> int:
        """Return a number that is another one after any commit, from memory.

        The server notifies of each write. What was missed while the connection was
        lost is not known, so the number changes with each connection too.
        """
        listener = self._listener
        if listener is None:
            with self._lock:
                if self._listener is None:
                    self._listener = Listener(self._route)
                listener = self._listener
        return listener.version

    def written(self) -> None:
        """Count a commit by this process at once, before its notification comes."""
        if self._listener is not None:
            self._listener.count()

    def flush(self, connection: Connection) -> None:
        """Do nothing: the server does it."""

    def scrub(self, connection: Connection) -> bool:  # noqa: ARG002 - for the other engine.
        """Do nothing: where the server keeps old rows, it alone knows."""
        return True

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the driver raises into a ``StoreUnavailableError``.

        The block waits for a connection for the deadline at most, and for each answer then.
        """
        self._silence.refuse()
        patience.begin(self._place.deadline.total_seconds())
        try:
            yield
        except DBAPIError as error:
            self._silence.note(error.orig)
            if isinstance(error.orig, ReadOnlySqlTransaction):
                self.leave_server()
            raise StoreUnavailableError(
                f"the store did not answer: {reason_of(error.orig)}",
                hint=_hint_for(error.orig),
            ) from None
        except psycopg.Error as error:
            self._silence.note(error)
            raise StoreUnavailableError(f"the store did not answer: {reason_of(error)}") from None
        except SQLAlchemyError as error:
            raise StoreUnavailableError(
                f"the store did not answer ({type(error).__name__})"
            ) from None
        finally:
            patience.end()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._listener is not None:
                self._listener.close()
        self._reading.dispose()
        self._writing.dispose()

    def _connect(self) -> BoundedConnection:
        try:
            connection = self._route.connect()
        except SettingsError as error:
            if not self._was_connected:
                raise
            # The password's file, which is read again for each connection.
            raise StoreUnavailableError(error.message, hint=error.hint) from None
        self._was_connected = True
        return connection

    def _engine(self, connections: int, **options: Any) -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            execution_options=options,
            hide_parameters=True,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=self._place.deadline.total_seconds(),
            # A server that was restarted has closed what the pool still holds.
            pool_pre_ping=True,
        )
        event.listen(engine, "checkout", self._check_out)
        return engine

    def _check_out(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        if record.info.setdefault("server", self._server) != self._server:
            # The pool then makes a new connection.
            raise DisconnectionError
        patience.end()


def _unconfirmed() -> StoreUnconfirmedError:
    return StoreUnconfirmedError(
        "the store did not confirm the change, which may or may not have been made",
        hint="look whether it was made before you repeat it",
    )


def _hint_for(error: BaseException | None) -> str:
    if isinstance(error, InsufficientPrivilege):
        return "let the role of store.postgresql own the database"
    if isinstance(error, LockNotAvailable):
        return "somebody else keeps it busy; try again"
    return (
        "check that PostgreSQL runs, is reached, and lets this user in with the password in "
        "store.password_file"
    )
