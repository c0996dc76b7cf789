"""The PostgreSQL server of the tests: it asks for a password, dies, comes back and is followed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from testbed.postgresql import PostgreSql
from testbed.postgresql_standby import Standby, either
from testbed.proxy import Proxy

pytestmark = pytest.mark.timeout(60)


def password(server: PostgreSql) -> str:
    """The password of keyplane's role."""
    return server.password_file.read_text(encoding="ascii").strip()


def connect(server: PostgreSql, connection: str) -> psycopg.Connection:
    """Log in as keyplane does."""
    return psycopg.connect(connection, password=password(server), connect_timeout=5)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgreSql]:
    """A server that the test may break."""
    with PostgreSql(tmp_path / "server") as server:
        with connect(server, server.connection) as connection:
            connection.execute("CREATE TABLE kept (number int)")
        yield server


@pytest.fixture
def proxy(postgresql: PostgreSql) -> Iterator[Proxy]:
    """A proxy in front of the shared server."""
    with Proxy(postgresql.port) as running:
        yield running


def test_keyplane_logs_in_with_its_password_only(
    postgresql: PostgreSql, postgresql_dsn: str
) -> None:
    with connect(postgresql, postgresql_dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("keyplane",)
        connection.execute("CREATE TABLE mine (number int)")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgresql_dsn, password="wrong", connect_timeout=5)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgresql_dsn, connect_timeout=5)


def test_the_password_file_is_its_readers_alone(postgresql: PostgreSql) -> None:
    assert postgresql.password_file.stat().st_mode & 0o777 == 0o600
    assert password(postgresql) not in postgresql.connection


def test_a_database_made_from_a_template_has_what_the_template_has(
    postgresql: PostgreSql, postgresql_dsn: str
) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(postgresql_dsn)["dbname"])
    with connect(postgresql, postgresql_dsn) as connection:
        connection.execute("CREATE TABLE seen AS SELECT 7 AS number")
    connection.close()

    copy = postgresql.create_database(f"{name}_copy", template=name)

    try:
        with connect(postgresql, copy) as connection:
            assert connection.execute("SELECT number FROM seen").fetchall() == [(7,)]
            connection.execute("INSERT INTO seen VALUES (8)")
    finally:
        postgresql.drop_database(f"{name}_copy")


def test_what_was_committed_survives_the_death_of_all_processes(own_server: PostgreSql) -> None:
    connection = connect(own_server, own_server.connection)
    connection.execute("INSERT INTO kept VALUES (1)")
    connection.commit()

    own_server.kill()

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with pytest.raises(psycopg.OperationalError):
        connect(own_server, own_server.connection)
    own_server.start()
    assert own_server.ask("SELECT number FROM kept", database="keyplane") == [(1,)]


def test_a_stop_does_not_wait_for_clients(own_server: PostgreSql) -> None:
    with connect(own_server, own_server.connection) as client:
        client.execute("SELECT 1")
        before = time.monotonic()

        own_server.restart()

        assert time.monotonic() - before < 5
        client.close()
    assert own_server.ask("SELECT 1") == [(1,)]


def test_a_promoted_standby_has_everything_that_was_acknowledged(
    own_server: PostgreSql, tmp_path: Path
) -> None:
    with Standby(own_server, tmp_path / "standby") as standby:
        standby.be_awaited()
        both = either(own_server.port, standby.port)
        with connect(own_server, both) as connection:
            for number in range(100):
                connection.execute("INSERT INTO kept VALUES (%s)", (number,))
                connection.commit()
        with (
            connect(standby, standby.connection) as reader,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        ):
            reader.execute("INSERT INTO kept VALUES (0)")

        own_server.kill()
        standby.promote()

        with connect(own_server, both) as connection:
            assert connection.info.port == standby.port
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (100,)
            connection.execute("INSERT INTO kept VALUES (100)")


def test_a_frozen_server_answers_nobody_until_it_is_thawed(own_server: PostgreSql) -> None:
    own_server.freeze()

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_server.connection, password="any", connect_timeout=2)
    own_server.thaw()
    assert own_server.ask("SELECT 1") == [(1,)]


def through(proxy: Proxy, server: PostgreSql) -> psycopg.Connection:
    """A connection that goes through the proxy."""
    return connect(server, server.connection_to("keyplane", through=proxy.port))


def test_a_proxy_cuts_what_is_open_and_takes_what_is_new(
    proxy: Proxy, postgresql: PostgreSql
) -> None:
    connection = through(proxy, postgresql)
    connection.execute("SELECT 1")

    assert proxy.cut() == 1

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with through(proxy, postgresql) as again:
        again.execute("SELECT 1")


def test_a_proxy_that_refuses_keeps_what_is_open(proxy: Proxy, postgresql: PostgreSql) -> None:
    with through(proxy, postgresql) as connection:
        proxy.refuse()

        with pytest.raises(psycopg.OperationalError, match="refused"):
            through(proxy, postgresql)
        connection.execute("SELECT 1")
        proxy.accept()
        with through(proxy, postgresql) as again:
            again.execute("SELECT 1")


def test_a_stalled_proxy_swallows_and_tells_nobody(proxy: Proxy, postgresql: PostgreSql) -> None:
    connection = through(proxy, postgresql)
    connection.execute("SELECT 1")
    proxy.stall()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(connection.execute, "SELECT 1")
        with pytest.raises(TimeoutError):
            asked.result(timeout=0.5)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(
                postgresql.connection_to("keyplane", through=proxy.port),
                password=password(postgresql),
                connect_timeout=2,
            )
        assert not asked.done()

        proxy.resume()

        with pytest.raises(psycopg.OperationalError):
            asked.result(timeout=5)
    connection.close()
    with through(proxy, postgresql) as again:
        again.execute("SELECT 1")
