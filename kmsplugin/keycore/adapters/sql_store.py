"""The store port on SQLAlchemy, embedded as one SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from keycore.adapters import sql_tables as t
from keycore.adapters.sql_key_rows import SqlKeyRows, chunks
from keycore.adapters.sql_rows import SqlInstanceRows, SqlProviderRows
from keycore.domain.ids import KeyId, VersionId
from keycore.errors import StoreSetupError, StoreUnavailableError
from keycore.ports import Changes

BUSY_SECONDS = 5
"""How long a writer waits for another one before the store counts as unavailable."""

_READERS_MAX = 15
"""Connections that read at the same time; SQLite has any number of readers."""


@dataclass(frozen=True, slots=True)
class SqlTransaction:
    """The rows of one transaction."""

    keys: SqlKeyRows
    providers: SqlProviderRows
    instances: SqlInstanceRows


class SqlStore:
    """Records in one database; every method maps the driver's errors."""

    def __init__(self, path: Path) -> None:
        """Use a file whose schema is right; see :meth:`open` and :meth:`create`."""
        self._path = path
        self._identity = _identity(path)
        self._engine = _reading_engine(path)
        # SQLite has one writer at a time. Those who wait for it wait here, and take no
        # connection from those who read.
        self._writing_engine = _writing_engine(path)
        self._watcher: sqlite3.Connection | None = None
        self._watcher_lock = threading.Lock()
        self._version = 0

    @classmethod
    def open(cls, path: Path) -> SqlStore:
        """Open the store of an installation, and scrub what a killed deletion left.

        A store of an earlier release gets this release's schema; its records stay as
        they are signed.

        Raises:
            StoreSetupError: the file is no store, or of a later release's schema.
            StoreUnavailableError: it did not answer.
        """
        store = cls(path)
        try:
            store._ensure_schema()
        except (StoreSetupError, StoreUnavailableError):
            store.close()
            raise
        # A long reader, such as a backup, must not keep anybody from starting.
        with suppress(StoreUnavailableError):
            store.scrub()
        return store

    @classmethod
    def create(cls, path: Path) -> SqlStore:
        """Make the file and bring its schema to this release's; repeating changes nothing.

        Raises:
            StoreUnavailableError: it cannot be made or did not answer.
        """
        engine = _writing_engine(path)
        try:
            _upgrade(engine)
        finally:
            engine.dispose()
        path.chmod(0o600)
        return cls(path)

    @staticmethod
    def holds_installation(path: Path) -> bool:
        """Tell whether ``init`` has finished on this file; nothing in it is verified.

        Raises:
            StoreUnavailableError: it did not answer.
        """
        engine = _reading_engine(path)
        try:
            if _revision(engine) is None:
                return False
            with _store_errors(), engine.connect() as connection:
                return connection.execute(select(t.installations.c.id)).first() is not None
        finally:
            engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[SqlTransaction]:
        """Open a consistent view.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        self._ensure_same_file()
        with _store_errors(), self._engine.connect() as connection:
            yield _transaction(connection)

    @contextmanager
    def writing(self) -> Iterator[SqlTransaction]:
        """Open the only writer; commit on leaving, roll back on an exception.

        Raises:
            StoreUnavailableError: the store did not answer; nothing was written.
        """
        with self._writer() as connection:
            yield _transaction(connection)

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

    def changes_since(self, sequence: int) -> Changes:
        """Return what was written after ``sequence``.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        self._ensure_same_file()
        with _store_errors(), self._engine.connect() as connection:
            newest = connection.execute(_NEWEST).scalar_one()
            if newest == sequence:
                return Changes(newest, frozenset())
            changed = connection.execute(select(t.keys.c.id).where(t.keys.c.changed > sequence))
            return Changes(newest, frozenset(KeyId(row.id) for row in changed))

    def reserve_uses(
        self, version_ids: Sequence[VersionId], count: int, limit: int
    ) -> dict[VersionId, int]:
        """Reserve up to ``count`` uses of each version and return how many were granted.

        Raises:
            StoreUnavailableError: the store did not answer; nothing was reserved.
        """
        with self._writer() as connection:
            used = _uses(connection, version_ids)
            granted = {v: max(0, min(count, limit - used.get(v, limit))) for v in version_ids}
            connection.execute(
                _ADD_USES, [{"version": v, "granted": n} for v, n in granted.items()]
            )
            return granted

    def count_start(self, limit: int) -> bool:
        """Count the start of a process unless ``limit`` were counted, and tell whether.

        Raises:
            StoreUnavailableError: the store did not answer; nothing was counted.
        """
        starts = t.changes.c.starts
        with self._writer() as connection:
            counted = connection.execute(
                update(t.changes).where(starts < limit).values(starts=starts + 1)
            )
            return counted.rowcount > 0

    def uses(self, version_ids: Iterable[VersionId]) -> Mapping[VersionId, int]:
        """Return how many uses were granted for each version.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        self._ensure_same_file()
        with _store_errors(), self._engine.connect() as connection:
            return _uses(connection, list(version_ids))

    def scrub(self) -> None:
        """Write the log back into the file and truncate it.

        ``secure_delete`` overwrites deleted bytes in the database file alone; the
        write-ahead log would keep the page as it was before.

        Raises:
            StoreUnavailableError: another process kept it busy for too long.
        """
        with _store_errors(), self._engine.connect() as connection:
            autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
            busy = autocommit.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()[0]
        if busy:
            raise StoreUnavailableError("the store is too busy to be scrubbed")

    def close(self) -> None:
        """Close all connections."""
        with self._watcher_lock:
            if self._watcher is not None:
                self._watcher.close()
        self._engine.dispose()
        self._writing_engine.dispose()

    def _ensure_same_file(self) -> None:
        # An open file lives on when it is moved or replaced, and what is written to
        # it would be seen by nobody.
        if _identity(self._path) != self._identity:
            raise StoreUnavailableError(
                f"the store's file {self._path} was removed or replaced",
                hint="put it back, or restart keyplane to use the new one",
            )

    @contextmanager
    def _writer(self) -> Iterator[Connection]:
        self._ensure_same_file()
        with _store_errors(), self._writing_engine.begin() as connection:
            yield connection

    def _ensure_schema(self) -> None:
        revision = _revision(self._engine)
        if revision in t.EARLIER_REVISIONS:
            _upgrade(self._writing_engine)
        elif revision != t.SCHEMA_REVISION:
            raise StoreSetupError(
                f"the store {self._path} has schema {revision or 'none'}, "
                f"this release needs {t.SCHEMA_REVISION}",
                hint="run the release that made it, or finish keyplane init",
            )


_NEWEST = select(t.changes.c.sequence)

_USES = select(t.key_versions.c.id, t.key_versions.c.uses).where(
    t.key_versions.c.id.in_(bindparam("ids", expanding=True))
)

_ADD_USES = (
    update(t.key_versions)
    .where(t.key_versions.c.id == bindparam("version"))
    .values(uses=t.key_versions.c.uses + bindparam("granted"))
)


def _uses(connection: Connection, version_ids: Sequence[VersionId]) -> dict[VersionId, int]:
    return {
        VersionId(row.id): row.uses
        for chunk in chunks(version_ids)
        for row in connection.execute(_USES, {"ids": chunk})
    }


def _transaction(connection: Connection) -> SqlTransaction:
    return SqlTransaction(
        SqlKeyRows(connection), SqlProviderRows(connection), SqlInstanceRows(connection)
    )


def _reading_engine(path: Path) -> Engine:
    return _engine(path, begin="BEGIN", connections=_READERS_MAX)


def _writing_engine(path: Path) -> Engine:
    # A writer takes the lock at once, so what it reads is what it will replace.
    return _engine(path, begin="BEGIN IMMEDIATE", connections=1)


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


def _revision(engine: Engine) -> str | None:
    with _store_errors(), engine.connect() as connection:
        known = connection.execute(
            text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
        ).first()
        if known is None:
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(engine: Engine) -> None:
    """Bring the schema to this release's; of two processes at once, the second finds it done."""
    # Alembic takes long to import and is needed nowhere else.
    from keycore.adapters.migrations import upgrade  # noqa: PLC0415

    with _store_errors(), engine.begin() as connection:
        upgrade(connection)


@contextmanager
def _store_errors() -> Iterator[None]:
    """Map the driver's errors; the SQL in their texts must not travel further."""
    try:
        yield
    except DBAPIError as error:
        raise StoreUnavailableError(
            f"the store did not answer: {error.orig}",
            hint="check the disk and the permissions of the state directory",
        ) from None
    except SQLAlchemyError as error:
        raise StoreUnavailableError(f"the store did not answer ({type(error).__name__})") from None
