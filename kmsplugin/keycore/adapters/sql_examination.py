"""Looks at a store's file without upgrading, scrubbing or making anything."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from keycore.adapters.sql_tables import EARLIER_REVISIONS, SCHEMA_REVISION
from keycore.errors import StoreUnavailableError

_BUSY_SECONDS: Final = 5.0

_STEPS: Final = 100_000
"""Steps of SQLite's virtual machine between two looks at the clock, about a millisecond."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store's file is.

    Attributes:
        revision: its schema's migration; ``None`` when it is no store.
        damage: what SQLite's own check of the file has found.
        checked: whether that check came to its end in time.
        sequence: number of the newest write; 0 while the schema is another one.
    """

    revision: str | None
    damage: tuple[str, ...]
    checked: bool
    sequence: int

    @property
    def is_current(self) -> bool:
        """Whether the schema is this release's."""
        return self.revision == SCHEMA_REVISION

    @property
    def is_earlier(self) -> bool:
        """Whether opening the store would bring its schema up to date."""
        return self.revision in EARLIER_REVISIONS


def examine_store(path: Path, *, seconds: float) -> StoreFacts:
    """Look at a file.

    Args:
        path: the store; it must exist.
        seconds: how long SQLite may check the file's structure.

    Raises:
        StoreUnavailableError: it cannot be opened, or is not a database.
    """
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
        ) as connection:
            connection.execute("PRAGMA query_only = ON")
            revision = _revision(connection)
            damage, checked = _damage(connection, time.monotonic() + seconds)
            sequence = _sequence(connection) if revision == SCHEMA_REVISION else 0
    except sqlite3.Error as error:
        raise StoreUnavailableError(
            f"the store {path} cannot be read: {error}",
            hint="check the disk, owner and mode; restore the file from a backup if it is damaged",
        ) from None
    return StoreFacts(revision, damage, checked, sequence)


def _revision(connection: sqlite3.Connection) -> str | None:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if known.fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _damage(connection: sqlite3.Connection, latest: float) -> tuple[tuple[str, ...], bool]:
    connection.set_progress_handler(lambda: time.monotonic() > latest, _STEPS)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(10)")]
    except sqlite3.OperationalError:
        if time.monotonic() <= latest:
            raise
        return (), False
    finally:
        connection.set_progress_handler(None, 0)
    return tuple(line for line in found if line != "ok"), True


def _sequence(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT sequence FROM changes").fetchone()
    return 0 if row is None else int(row[0])
