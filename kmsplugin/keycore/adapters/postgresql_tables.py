"""What else lies in a database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Final

from sqlalchemy import text

from keycore.adapters import sql_tables as t
from keycore.adapters.postgresql_database import PostgresqlDatabase
from keycore.adapters.sql_place import PostgresqlPlace

_OURS: Final = frozenset({*t.metadata.tables, "alembic_version"})

# Those of an extension, such as PostGIS, were put there by the server's administrator.
_TABLES: Final = text(
    """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'f') AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.deptype = 'e'
    ) ORDER BY c.relname
    """
)


def foreign_tables(place: PostgresqlPlace) -> Sequence[str]:
    """Return the tables that are not ours, of the schema in which ours are made.

    Raises:
        StoreUnavailableError: it did not answer.
    """
    with (
        closing(PostgresqlDatabase(place)) as database,
        database.errors(),
        database.reading.connect() as connection,
    ):
        return [name for name in connection.execute(_TABLES).scalars() if name not in _OURS]
