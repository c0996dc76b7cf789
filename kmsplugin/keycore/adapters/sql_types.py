"""Column types that mean the same on every engine."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.types import TypeEngine


def text(length: int) -> TypeEngine[str]:
    """Return a text of at most ``length`` characters that sorts by code point everywhere.

    PostgreSQL would sort by the database's locale, whose order changes with the
    operating system and breaks indexes then. SQLite keeps no length.
    """
    return String(length).with_variant(String(length, collation="C"), "postgresql")
