"""The store port on SQLAlchemy: one SQLite file of this host, or a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, bindparam, inspect, select, text, update

from keycore.adapters import sql_tables as t
from keycore.adapters.sql_copy import compare_rows, copy_rows, count_rows
from keycore.adapters.sql_database import Database
from keycore.adapters.sql_key_rows import SqlKeyRows, chunks
from keycore.adapters.sql_place import Place
from keycore.adapters.sql_rows import SqlInstanceRows, SqlProviderRows, upsert
from keycore.adapters.sqlite_database import SqliteDatabase
from keycore.domain.ids import KeyId, VersionId
from keycore.errors import IntegrityError, StoreSetupError, StoreUnavailableError
from keycore.ports import CHANGES_NAMED_MAX, AuditHead, Changes


@dataclass(frozen=True, slots=True)
class SqlTransaction:
    """The rows of one transaction."""

    keys: SqlKeyRows
    providers: SqlProviderRows
    instances: SqlInstanceRows


Progress = Callable[[str, int, int], None]
"""Told what is done, how many rows of it, and of how many."""


class SqlStore:
    """Records in one database; every method maps the driver's errors."""

    def __init__(self, place: Place) -> None:
        """Use a database whose schema is right; see :meth:`open` and :meth:`create`."""
        self._database = _database(place)
        self._epoch: str | None = None

    @classmethod
    def open(cls, place: Place) -> SqlStore:
        """Open the store of an installation, and scrub what a killed deletion left.

        A store of an earlier release gets this release's schema; its records stay as
        they are signed.

        Raises:
            StoreSetupError: it is no store, or of a later release's schema.
            StoreUnavailableError: it did not answer.
        """
        store = cls(place)
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
    def create(cls, place: Place) -> SqlStore:
        """Bring an empty database to this release's schema; repeating changes nothing.

        A file is made when it is missing.

        Raises:
            StoreUnavailableError: it cannot be made or did not answer.
        """
        database = _database(place)
        try:
            _upgrade(database)
        finally:
            database.close()
        if isinstance(place, Path):
            place.chmod(0o600)
        return cls(place)

    @staticmethod
    def holds_installation(place: Place) -> bool:
        """Tell whether ``init`` has finished on it; nothing in it is verified.

        Raises:
            StoreUnavailableError: it did not answer.
        """
        database = _database(place)
        try:
            if _revision(database) is None:
                return False
            with database.errors(), database.reading.connect() as connection:
                return connection.execute(select(t.installations.c.id)).first() is not None
        finally:
            database.close()

    @property
    def title(self) -> str:
        """What messages call the store: a path, or database and server."""
        return self._database.title

    def revision(self) -> str | None:
        """Return the migration that its schema has, or ``None`` where there is none.

        Raises:
            StoreUnavailableError: it did not answer.
        """
        return _revision(self._database)

    @contextmanager
    def reading(self) -> Iterator[SqlTransaction]:
        """Open a consistent view.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        with self._reader() as connection:
            yield _transaction(connection)

    @contextmanager
    def writing(self) -> Iterator[SqlTransaction]:
        """Open the only writer; commit on leaving, roll back on an exception.

        Raises:
            StoreUnconfirmedError: nobody knows whether the commit was made.
            StoreUnavailableError: the store did not answer; nothing was written.
        """
        database = self._database
        with self._transaction() as connection:
            before = database.become_only_writer(connection)
            yield _transaction(connection)
            database.announce(connection, since=before)
        database.written()

    @contextmanager
    def alone_at_setup(self) -> Iterator[None]:
        """Keep others on this store, of any host, from setting up an installation meanwhile.

        Raises:
            StoreUnavailableError: another one took too long, or the store did not answer.
        """
        with self._database.alone_at_setup():
            yield

    def version(self) -> int:
        """Return a number that is another one after any commit, of other processes too."""
        return self._database.version()

    def changes_since(self, sequence: int) -> Changes:
        """Return what was written after ``sequence``.

        Raises:
            StoreUnavailableError: the store did not answer, or takes no writes any more.
            IntegrityError: somebody has changed the counter of writes by hand.
        """
        with self._reader() as connection:
            epoch = self._database.epoch
            newest, now = connection.execute(select(t.changes.c.sequence, epoch)).one()
            if now is None:
                self._database.leave_server()
                raise StoreUnavailableError("the store's server takes no writes any more")
            if self._epoch not in (None, now):
                # Other connections may still go to the server of before.
                self._database.leave_server()
            self._epoch = now
            if not isinstance(newest, int):
                raise IntegrityError("store", "changes")
            if sequence in (0, newest):
                return Changes(newest, frozenset(), now)
            later = select(t.keys.c.id).where(t.keys.c.changed > sequence)
            changed = connection.execute(later.limit(CHANGES_NAMED_MAX + 1)).all()
            if len(changed) > CHANGES_NAMED_MAX:
                return Changes(newest, frozenset(), now, too_many=True)
            return Changes(newest, frozenset(KeyId(row.id) for row in changed), now)

    def reserve_uses(
        self, version_ids: Sequence[VersionId], count: int, limit: int
    ) -> dict[VersionId, int]:
        """Reserve up to ``count`` uses of each version and return how many were granted.

        Raises:
            StoreUnavailableError: the store did not answer; what it reserved yet is lost.
        """
        with self._writer() as connection:
            used = _uses(connection, version_ids)
            granted = {v: max(0, min(count, limit - used.get(v, limit))) for v in version_ids}
            connection.execute(
                _ADD_USES, [{"version": v, "granted": n} for v, n in granted.items()]
            )
            return granted

    def give_back_uses(self, unused: Mapping[VersionId, int]) -> None:
        """Take back uses that were reserved and that nobody will make, in one write.

        Raises:
            StoreUnconfirmedError: nobody knows whether they were taken back.
            StoreUnavailableError: the store did not answer; none was taken back.
        """
        with self._writer() as connection:
            given = [{"version": version, "unused": count} for version, count in unused.items()]
            connection.execute(_SUBTRACT_USES, given)

    def count_start(self, limit: int) -> bool:
        """Count the start of a process unless ``limit`` were counted, and tell whether.

        Raises:
            StoreUnavailableError: the store did not answer; the start may be counted yet.
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
        with self._reader() as connection:
            return _uses(connection, list(version_ids))

    def save_audit_head(self, head: AuditHead) -> None:
        """Insert or replace the head of its chain; nothing that others must read changes.

        Raises:
            StoreUnavailableError: the store did not answer; it may be written yet.
        """
        values = {
            "node": head.node,
            "name": head.name,
            "line": head.line,
            "digest": head.digest,
            "at": head.at,
            "mac": head.mac,
        }
        # Each chain has one process that writes it, and nobody caches heads.
        with self._transaction() as connection:
            upsert(connection, t.audit_heads, {"chain": head.chain}, values)

    def audit_heads(self) -> Sequence[AuditHead]:
        """Return the head of every chain, sorted by chain.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        heads = t.audit_heads
        with self._reader() as connection:
            rows = connection.execute(select(heads).order_by(heads.c.chain))
            return [
                AuditHead(row.chain, row.node, row.name, row.line, row.digest, row.at, row.mac)
                for row in rows
            ]

    def scrub(self) -> None:
        """Overwrite what deleted rows have left, where the engine can.

        Raises:
            StoreUnavailableError: another process kept it busy for too long.
        """
        database = self._database
        with database.errors(), database.reading.connect() as connection:
            done = database.scrub(connection.execution_options(isolation_level="AUTOCOMMIT"))
        if not done:
            raise StoreUnavailableError("the store is too busy to be scrubbed")

    def move_to(self, target: SqlStore, *, retire: Callable[[], None], progress: Progress) -> int:
        """Copy every row to ``target``, compare them all, and give this store up.

        Nobody writes to either store meanwhile. A target that holds rows already must
        hold the same ones: then an earlier run has copied them, and was interrupted.

        Args:
            target: a store with this release's schema.
            retire: makes this store unusable; called when the copy is safe and before
                others may write here again.
            progress: told what is done, how many rows of it, and of how many.

        Returns:
            The number of rows.

        Raises:
            StoreSetupError: the rows differ; nothing was changed.
            StoreUnavailableError: one of the stores did not answer.
        """
        with self._writer() as source:
            rows = count_rows(source)
            with target._writer() as copy:
                if count_rows(copy) <= 1:
                    copy_rows(source, copy, counted("copied", rows, progress))
                compare_rows(source, copy, counted("compared", rows, progress))
            with self._database.reading.connect() as connection:
                self._database.flush(connection.execution_options(isolation_level="AUTOCOMMIT"))
            retire()
        return rows

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    @contextmanager
    def _reader(self) -> Iterator[Connection]:
        self._database.check()
        with self._database.errors(), self._database.reading.connect() as connection:
            yield connection

    @contextmanager
    def _writer(self) -> Iterator[Connection]:
        with self._transaction() as connection:
            self._database.become_only_writer(connection)
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        database = self._database
        database.check()
        with (
            database.errors(),
            database.writing.connect() as connection,
            connection.begin() as transaction,
        ):
            yield connection
            database.commit(transaction)

    def _ensure_schema(self) -> None:
        revision = self.revision()
        if revision in t.EARLIER_REVISIONS:
            _upgrade(self._database)
        elif revision != t.SCHEMA_REVISION:
            raise StoreSetupError(
                f"the store {self.title} has schema {revision or 'none'}, "
                f"this release needs {t.SCHEMA_REVISION}",
                hint="run the release that made it, or finish keyplane init",
            )


_USES = select(t.key_versions.c.id, t.key_versions.c.uses).where(
    t.key_versions.c.id.in_(bindparam("ids", expanding=True))
)

_ADD_USES = (
    update(t.key_versions)
    .where(t.key_versions.c.id == bindparam("version"))
    .values(uses=t.key_versions.c.uses + bindparam("granted"))
)

_SUBTRACT_USES = (
    update(t.key_versions)
    .where(
        t.key_versions.c.id == bindparam("version"), t.key_versions.c.uses >= bindparam("unused")
    )
    .values(uses=t.key_versions.c.uses - bindparam("unused"))
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


def counted(what: str, of: int, progress: Progress) -> Callable[[int], None]:
    """Return a function that adds up rows and tells ``progress`` how many there are."""
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        progress(what, done, of)

    return advance


def _database(place: Place) -> Database:
    if isinstance(place, Path):
        return SqliteDatabase(place)
    # The driver takes long to import, and an embedded store does not need it.
    from keycore.adapters.postgresql_database import PostgresqlDatabase  # noqa: PLC0415

    return PostgresqlDatabase(place)


def _revision(database: Database) -> str | None:
    with database.errors(), database.reading.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(database: Database) -> None:
    """Bring the schema to this release's; of two processes at once, the second finds it done."""
    # Alembic takes long to import and is needed nowhere else.
    from keycore.adapters.migrations import upgrade  # noqa: PLC0415

    with database.errors(), database.writing.begin() as connection:
        database.become_only_upgrader(connection)
        upgrade(connection)
