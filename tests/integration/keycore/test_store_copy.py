"""What PostgreSQL knows of a store that was just copied into it."""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict

from keycore.adapters.sql_place import PostgresqlPlace
from keycore.adapters.sql_store import SqlStore
from testbed.postgresql import PostgreSql


def test_the_server_knows_at_once_how_many_rows_were_copied(
    sqlite_store: SqlStore, postgresql: PostgreSql, postgresql_place: PostgresqlPlace
) -> None:
    """Otherwise it reads all keys to find the few that were changed."""
    target = SqlStore(postgresql_place)

    sqlite_store.move_to(target, retire=lambda: None, progress=lambda *_: None)
    target.close()

    counted = postgresql.ask(
        "SELECT reltuples FROM pg_class WHERE relname = 'changes'",
        database=str(conninfo_to_dict(postgresql_place.conninfo)["dbname"]),
    )
    assert counted == [(1.0,)]
