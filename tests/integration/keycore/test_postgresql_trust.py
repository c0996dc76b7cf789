"""What a server of PostgreSQL says and does is believed only as far as it can be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Engine

from keycore.adapters.postgresql_connection import reason_of
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.adapters.sql_store import SqlStore
from keycore.errors import SettingsError, StoreUnavailableError, StoreUnconfirmedError
from testbed.postgresql import PostgreSql

DEADLINE = timedelta(seconds=1)
WRITERS = 12
ANSWER_SECONDS_MAX = 3.5
"""A wait for the pool, or for the lock, and a little for a machine that is busy."""

RESTORED = (
    "ALTER TABLE changes RENAME TO former",
    "CREATE TABLE changes (LIKE former INCLUDING ALL)",
    "INSERT INTO changes SELECT * FROM former",
)

WARNING_AT_COMMIT = (
    """CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS
       $$BEGIN RAISE WARNING 'not replicated'; RETURN NULL; END$$""",
    """CREATE CONSTRAINT TRIGGER warns AFTER UPDATE ON changes DEFERRABLE INITIALLY DEFERRED
       FOR EACH ROW EXECUTE FUNCTION warn()""",
)


@pytest.fixture
def store(postgresql_place: PostgresqlPlace) -> Iterator[SqlStore]:
    with closing(SqlStore(replace(postgresql_place, deadline=DEADLINE))) as store:
        yield store


@pytest.fixture
def other(
    postgresql_place: PostgresqlPlace, postgresql: PostgreSql
) -> Iterator[psycopg.Connection]:
    """A connection of somebody else to the same database."""
    password = postgresql.password_file.read_text(encoding="utf-8").strip()
    with psycopg.connect(postgresql_place.conninfo, password=password) as connection:
        yield connection


def write(store: SqlStore) -> None:
    """Count a start, which is the smallest write that there is."""
    assert store.count_start(2**20)


def test_a_restored_table_is_another_epoch(store: SqlStore, other: psycopg.Connection) -> None:
    """Its counter may have come to the same number by other writes."""
    before = store.changes_since(0)
    for statement in RESTORED:
        other.execute(statement)
    other.commit()

    after = store.changes_since(before.sequence)

    assert after.sequence == before.sequence
    assert after.epoch != before.epoch


def close_to_writes(engine: Engine) -> None:
    """Do to a pooled connection what a reload of the server's settings does to all."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION default_transaction_read_only = on")
        connection.commit()


def test_a_server_that_takes_no_writes_any_more_is_not_read_either(store: SqlStore) -> None:
    store.changes_since(0)
    close_to_writes(store._database.reading)

    with pytest.raises(StoreUnavailableError, match="takes no writes any more"):
        store.changes_since(0)
    assert store.changes_since(0).sequence >= 0, "a new connection goes to the one that does"


def test_a_refused_write_looks_for_the_server_that_takes_it(store: SqlStore) -> None:
    write(store)
    close_to_writes(store._database.writing)

    with pytest.raises(StoreUnavailableError, match="read-only"):
        write(store)
    write(store)


def test_writers_that_queue_behind_a_lock_wait_once_and_not_in_turn(
    store: SqlStore, other: psycopg.Connection
) -> None:
    other.execute("SELECT sequence FROM changes FOR UPDATE")

    def refused(_: int) -> float:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            write(store)
        return time.monotonic() - started

    with ThreadPoolExecutor(WRITERS // 2) as threads:
        started = time.monotonic()
        waits = list(threads.map(refused, range(WRITERS)))

    assert max(waits) < ANSWER_SECONDS_MAX
    assert time.monotonic() - started < ANSWER_SECONDS_MAX
    assert store.changes_since(0).sequence >= 0, "those who only read do not wait"


def test_a_commit_with_a_warning_is_not_confirmed(
    store: SqlStore, other: psycopg.Connection
) -> None:
    """The server warns when it gives up waiting for a standby, and commits all the same."""
    for statement in WARNING_AT_COMMIT:
        other.execute(statement)
    other.commit()

    with pytest.raises(StoreUnconfirmedError):
        write(store)


def test_a_database_that_cannot_hold_every_name_is_refused(
    postgresql_place: PostgresqlPlace, postgresql: PostgreSql
) -> None:
    name = f"latin_{uuid4().hex}"
    postgresql.ask(
        f"CREATE DATABASE {name} OWNER keyplane ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0"
    )
    place = replace(postgresql_place, conninfo=postgresql.connection_to(name))

    with pytest.raises(SettingsError, match="encoding LATIN1"):
        SqlStore.create(place)
    postgresql.drop_database(name)


def test_what_a_server_says_cannot_flood_a_terminal_or_change_its_colours(
    other: psycopg.Connection,
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        other.execute(
            "DO $$BEGIN RAISE EXCEPTION '%', E'\\x1b[31mred' || repeat('x', 100000); END$$"
        )

    reason = reason_of(caught.value)

    assert reason.startswith("[31mred")
    assert reason.isprintable()
    assert len(reason) <= 300
