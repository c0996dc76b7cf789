"""The tables of the store, as SQLAlchemy Core describes them.

Times are whole microseconds since 1970 in UTC: exact, comparable, and the same
on every engine. Everything that is signed is stored as it was signed; the
columns ``changed`` and ``uses`` and a node's ``seen_at`` are not signed.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from keycore.adapters.sql_types import text
from keycore.domain.framing import from_microseconds, to_microseconds
from keycore.errors import IntegrityError

SCHEMA_REVISION = "0003"
"""The migration that this release needs; ``migrations/versions`` ends with it."""

EARLIER_REVISIONS = frozenset({"0001", "0002"})
"""Migrations of earlier releases, which opening the store brings up to date."""

metadata = MetaData()


class Microseconds(TypeDecorator[datetime]):
    """An aware UTC datetime as an integer."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the integer to store."""
        return None if value is None else to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the stored moment.

        Raises:
            IntegrityError: the column holds what we never write.
        """
        try:
            return None if value is None else from_microseconds(value)
        except (TypeError, OverflowError):
            raise IntegrityError("store", "with a time that is none") from None


def _signature() -> tuple[Column[int], Column[bytes]]:
    return (
        Column("record_format", Integer, nullable=False),
        Column("mac", LargeBinary, nullable=False),
    )


changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("starts", BigInteger, nullable=False, server_default="0"),
)
"""One row: the number of the newest write, and how many processes opened a credit."""

installations = Table(
    "installations",
    metadata,
    Column("id", text(36), primary_key=True),
    Column("token_label", text(32), nullable=False),
    Column("token_serial", text(32), nullable=False),
    Column("created_at", Microseconds, nullable=False),
    *_signature(),
)

instances = Table(
    "instances",
    metadata,
    Column("id", text(36), primary_key=True),
    Column("name", text(255), nullable=False),
    Column("namespace", text(63), unique=True),
    Column("created_at", Microseconds, nullable=False),
    *_signature(),
)

keys = Table(
    "keys",
    metadata,
    Column("id", text(36), primary_key=True),
    Column("instance_id", text(36), ForeignKey("instances.id"), nullable=False),
    Column("name", text(90), nullable=False),
    Column("description", text(240)),
    Column("kind", text(16), nullable=False),
    Column("state", Integer, nullable=False),
    Column("imported", Boolean, nullable=False),
    Column("bit_length", Integer, nullable=False),
    Column("created_at", Microseconds, nullable=False),
    Column("created_by", text(320), nullable=False),
    Column("updated_at", Microseconds, nullable=False),
    Column("expires_at", Microseconds),
    Column("deleted_at", Microseconds),
    Column("owner", text(255), unique=True),
    Column("rotation_marker", text(255)),
    Column("aliases", Text),
    Column("tags", Text),
    Column("deleted_by", text(320)),
    Column("changed", BigInteger, nullable=False, index=True),
    *_signature(),
    Index("ix_keys_instance_id_id", "instance_id", "id"),
    # What a list or count of all instances skips, it finds here, without the rows.
    Index("ix_keys_list", "id", "state", "kind", "expires_at"),
)

key_aliases = Table(
    "key_aliases",
    metadata,
    Column("instance_id", text(36), ForeignKey("instances.id"), primary_key=True),
    Column("alias", text(90), primary_key=True),
    Column("key_id", text(36), ForeignKey("keys.id"), nullable=False, index=True),
)
"""Finds keys by alias and keeps aliases unique. The signed list is in ``keys.aliases``."""

receipts = Table(
    "receipts",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("key_id", text(36), ForeignKey("keys.id"), nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("created_at", Microseconds, nullable=False, index=True),
)

key_versions = Table(
    "key_versions",
    metadata,
    Column("id", text(36), primary_key=True),
    Column("key_id", text(36), ForeignKey("keys.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", text(16), nullable=False),
    Column("created_at", Microseconds, nullable=False),
    Column("wrapped", LargeBinary),
    Column("uses", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("key_id", "number"),
)

providers = Table(
    "providers",
    metadata,
    Column("name", text(63), primary_key=True),
    Column("key_id", text(36), ForeignKey("keys.id"), nullable=False),
    Column("created_at", Microseconds, nullable=False),
    Column("updated_at", Microseconds, nullable=False),
    *_signature(),
)

activations = Table(
    "activations",
    metadata,
    Column("id", text(36), primary_key=True),
    Column("provider", text(63), ForeignKey("providers.name"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("key_id", text(36), ForeignKey("keys.id"), nullable=False),
    Column("version_id", text(36), ForeignKey("key_versions.id"), nullable=False),
    Column("state", text(16), nullable=False),
    Column("created_at", Microseconds, nullable=False),
    UniqueConstraint("provider", "sequence"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("provider", text(63), primary_key=True),
    Column("name", text(253), primary_key=True),
    Column("loaded", Integer, nullable=False),
    Column("registered_at", Microseconds, nullable=False),
    Column("seen_at", Microseconds, nullable=False),
    *_signature(),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("chain", text(36), primary_key=True),
    Column("node", text(253), nullable=False),
    Column("name", text(63), nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("at", Microseconds, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""How far the audit chains have come. It is signed as a whole, like every record."""
