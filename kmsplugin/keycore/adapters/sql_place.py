"""Where a store is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class PostgresqlPlace:
    """How to reach a database.

    Attributes:
        conninfo: libpq's connection string or URI, without a password.
        password_file: file with the password, mode 0600; ``None`` for none.
        deadline: how long any answer may take.
    """

    conninfo: str
    password_file: Path | None = None
    deadline: timedelta = timedelta(seconds=5)

    @property
    def title(self) -> str:
        """What messages call it: database and hosts, and nothing else of the string."""
        # The driver takes long to import, and only this kind of store needs it.
        import psycopg  # noqa: PLC0415

        try:
            facts = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        except psycopg.Error:
            return "PostgreSQL"
        name, host = facts.get("dbname", ""), facts.get("host", "the local server")
        return f"PostgreSQL database {name} at {host}"


Place: TypeAlias = Path | PostgresqlPlace
"""A file, or a database on a server."""
