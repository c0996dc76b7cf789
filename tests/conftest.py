"""Fixtures that several layers of tests share.

A PKCS#11 module and its one login belong to the process, so the whole test
process shares one SoftHSM2 token; every test gets a store of its own. Tests that
need a token of their own run keyplane in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, update

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.sql_tables import changes, metadata
from keycore.bootstrap import open_token
from keycore.initialise import initialise
from keycore.service.caller import Caller
from keycore.settings import Settings, TokenSettings
from testbed import postgresql as postgresql_server
from testbed.opencryptoki import LABEL, OpenCryptoki, obstacle
from testbed.postgresql import PostgreSql
from testbed.waiting import wait_until
from tests.skipping import cannot_run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that look at what all others have left behind to the end."""
    items.sort(key=lambda item: item.get_closest_marker("runs_last") is not None)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that tests marked with ``anyio`` run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def softhsm_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an initialised installation on SoftHSM2."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("softhsm") / "state")
    initialise(settings, Caller("cli", "tests"))
    return settings


@pytest.fixture(scope="session")
def softhsm_token(softhsm_settings: Settings) -> Iterator[Pkcs11Token]:
    """The one logged-in SoftHSM2 token of the test process."""
    token = open_token(softhsm_settings)
    yield token
    token.close()


@pytest.fixture(scope="module")
def opencryptoki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenCryptoki]:
    """A new token of openCryptoki, for one module of tests: the machine has but one."""
    if reason := obstacle():
        cannot_run(reason)
    with OpenCryptoki(tmp_path_factory.mktemp("opencryptoki")) as running:
        yield running


@pytest.fixture(scope="module")
def opencryptoki_settings(
    opencryptoki: OpenCryptoki, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of an initialised installation on openCryptoki."""
    token = TokenSettings(module=opencryptoki.module, label=LABEL, pin_file=opencryptoki.pin_file)
    settings = Settings(state_dir=tmp_path_factory.mktemp("state") / "state", token=token)
    initialise(settings, Caller("cli", "tests"))
    return settings


@pytest.fixture(scope="module")
def opencryptoki_token(opencryptoki_settings: Settings) -> Iterator[Pkcs11Token]:
    """The logged-in openCryptoki token of the test process."""
    token = open_token(opencryptoki_settings)
    yield token
    token.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty SQLite store."""
    store = SqlStore.create(tmp_path / "keyplane.db")
    yield store
    store.close()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSql]:
    """The one PostgreSQL server of the test process; tests that break theirs have their own."""
    if reason := postgresql_server.obstacle():
        cannot_run(reason)
    with PostgreSql(tmp_path_factory.mktemp("postgresql")) as running:
        yield running


@pytest.fixture
def postgresql_dsn(postgresql: PostgreSql) -> Iterator[str]:
    """The connection string of an empty database; the password is the server's."""
    name = f"test_{uuid4().hex}"
    yield postgresql.create_database(name)
    postgresql.drop_database(name)


@pytest.fixture(scope="session")
def postgresql_template(postgresql: PostgreSql) -> str:
    """Name of a database with the tables of a store; copies of it are made in no time."""
    name = "store_template"
    SqlStore.create(place_of(postgresql, postgresql.create_database(name))).close()
    return name


@pytest.fixture
def postgresql_place(postgresql: PostgreSql, postgresql_template: str) -> Iterator[PostgresqlPlace]:
    """Where an empty store in PostgreSQL is."""
    name = f"test_{uuid4().hex}"
    yield place_of(postgresql, postgresql.create_database(name, template=postgresql_template))
    postgresql.drop_database(name)


@pytest.fixture(scope="session")
def postgresql_session_store(
    postgresql: PostgreSql, postgresql_template: str
) -> Iterator[SqlStore]:
    """A store in PostgreSQL, which hears of writes already; whoever uses it empties it before."""
    name = f"test_{uuid4().hex}"
    dsn = postgresql.create_database(name, template=postgresql_template)
    with closing(SqlStore(place_of(postgresql, dsn))) as store:
        store.version()
        listener = store._database._listener  # type: ignore[attr-defined]
        wait_until(lambda: listener.listening, what="it listens", within_seconds=10)
        yield store
    postgresql.drop_database(name)


@pytest.fixture
def postgresql_store(postgresql_session_store: SqlStore) -> SqlStore:
    """An empty store in PostgreSQL. To make a database for each test takes 0.3 seconds."""
    with postgresql_session_store._database.writing.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            if table is not changes:
                connection.execute(delete(table))
        connection.execute(update(changes).values(sequence=0, starts=0))
    return postgresql_session_store


def place_of(server: PostgreSql, connection: str) -> PostgresqlPlace:
    """Return how a store reaches a database of ``server``."""
    return PostgresqlPlace(connection, server.password_file)
