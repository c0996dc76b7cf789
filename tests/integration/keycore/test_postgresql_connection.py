"""Reaching PostgreSQL: which server is taken, how long it may take, and what an answer means."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import delete, event
from structlog.testing import capture_logs

from keycore.adapters import sql_tables as t
from keycore.adapters.postgresql_connection import Route
from keycore.adapters.postgresql_database import PostgresqlDatabase
from keycore.adapters.postgresql_listener import Listener
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.adapters.sql_store import SqlStore
from keycore.errors import StoreUnavailableError, StoreUnconfirmedError
from testbed.loopback import free_port
from testbed.postgresql import PostgreSql
from testbed.waiting import wait_until

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
"""Ends every connection that is inside a transaction."""

DEADLINE = timedelta(seconds=2)
LAST_ATTEMPT_SECONDS = 2.5
"""Of several addresses, the one that was begun last may take so long after the deadline."""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which every address of this host accepts and never says anything."""
    with closing(socket.create_server(("", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name service that knows four addresses for each name."""

    def resolved(host: str, port: int, **_: object) -> list[object]:
        addresses = [host] if host[0].isdigit() else [f"127.0.0.{n}" for n in range(1, 5)]
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.mark.usefixtures("names")
def test_a_name_with_many_addresses_gets_no_more_time_than_one(silent_port: int) -> None:
    conninfo = f"host=db port={silent_port} dbname=keyplane user=keyplane"
    store = SqlStore(PostgresqlPlace(conninfo, None, DEADLINE))

    started = time.monotonic()
    with closing(store), pytest.raises(StoreUnavailableError):
        store.changes_since(0)

    assert time.monotonic() - started < DEADLINE.total_seconds() + LAST_ATTEMPT_SECONDS


@pytest.fixture
def behind_silence(
    postgresql_place: PostgresqlPlace, postgresql: PostgreSql, silent_port: int
) -> PostgresqlPlace:
    """Where an empty store is, behind a server that says nothing."""
    given = conninfo_to_dict(postgresql_place.conninfo)
    ports = f"{silent_port},{postgresql.port}"
    conninfo = make_conninfo(**{**given, "host": "127.0.0.1,127.0.0.1", "port": ports})
    return replace(postgresql_place, conninfo=conninfo)


def test_a_server_that_says_nothing_is_passed_over(behind_silence: PostgresqlPlace) -> None:
    store = SqlStore(behind_silence)

    with closing(store):
        assert store.changes_since(0).sequence >= 0


def test_a_commit_whose_answer_is_lost_is_not_called_one_that_failed(
    postgresql_place: PostgresqlPlace, postgresql: PostgreSql
) -> None:
    store = SqlStore(postgresql_place)
    event.listen(store._database.writing, "commit", lambda _: postgresql.ask(CUT))

    with closing(store), pytest.raises(StoreUnconfirmedError), store.writing():
        pass


def test_a_connection_that_was_lost_before_the_commit_has_written_nothing(
    postgresql_place: PostgresqlPlace, postgresql: PostgreSql
) -> None:
    store = SqlStore(postgresql_place)

    def write() -> None:
        with closing(store), store.writing() as transaction:
            postgresql.ask(CUT)
            transaction.instances.installation()

    with pytest.raises(StoreUnavailableError) as caught:
        write()
    assert not isinstance(caught.value, StoreUnconfirmedError)


def test_nobody_writes_where_the_row_that_writers_lock_is_missing(
    postgresql_place: PostgresqlPlace,
) -> None:
    database, store = PostgresqlDatabase(postgresql_place), SqlStore(postgresql_place)
    with closing(database), database.writing.begin() as connection:
        connection.execute(delete(t.changes))

    with closing(store), pytest.raises(StoreUnavailableError), store.writing():
        pytest.fail("it is not alone")


def test_a_server_that_stands_still_costs_one_caller_and_not_the_next(
    behind_silence: PostgresqlPlace,
) -> None:
    """Its silence takes the whole of a short deadline, so nothing is left for the other one."""
    route = Route(replace(behind_silence, deadline=DEADLINE))
    with pytest.raises(psycopg.OperationalError):
        route.connect()

    started = time.monotonic()
    with closing(route.connect()):
        assert time.monotonic() - started < DEADLINE.total_seconds()


def test_every_address_that_was_tried_is_told_with_its_reason() -> None:
    ports = [free_port() for _ in range(2)]
    conninfo = "host=127.0.0.1,127.0.0.1 port={},{} dbname=keyplane".format(*ports)

    store = SqlStore(PostgresqlPlace(conninfo))

    with closing(store), pytest.raises(StoreUnavailableError) as caught:
        store.changes_since(0)

    assert all(f"127.0.0.1 port {port}: " in caught.value.message for port in ports)


def test_the_log_says_why_notifications_do_not_come_and_when_they_come_again(
    postgresql: PostgreSql,
) -> None:
    name = f"late_{uuid4().hex}"
    place = PostgresqlPlace(postgresql.connection_to(name), postgresql.password_file)

    with capture_logs() as logs, closing(Listener(Route(place))) as listener:
        wait_until(lambda: bool(logs), what="the first failure", within_seconds=10)
        postgresql.create_database(name)
        wait_until(lambda: len(logs) > 1, what="the end of the outage", within_seconds=10)
        assert listener.listening

    first, last = logs
    assert first["event"] == "the store's notifications do not come"
    assert f'database "{name}" does not exist' in first["reason"]
    assert last["event"] == "the store's notifications come again"
