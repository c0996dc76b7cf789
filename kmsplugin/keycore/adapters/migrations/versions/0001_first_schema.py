"""The first schema: installation, instances, keys, providers, ledger, nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from keycore.adapters.sql_types import text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables and the one row of the change counter."""
    changes = op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(changes, [{"id": 1, "sequence": 0}])
    op.create_table(
        "installations",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("token_label", text(32), nullable=False),
        sa.Column("token_serial", text(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        *_signature(),
    )
    op.create_table(
        "instances",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("name", text(255), nullable=False),
        sa.Column("namespace", text(63), unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        *_signature(),
    )
    op.create_table(
        "keys",
        sa.Column("id", text(36), primary_key=True),
        sa.Column(
            "instance_id", text(36), sa.ForeignKey("instances.id"), nullable=False, index=True
        ),
        sa.Column("name", text(90), nullable=False),
        sa.Column("description", text(240)),
        sa.Column("kind", text(16), nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("imported", sa.Boolean, nullable=False),
        sa.Column("bit_length", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", text(255), nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("owner", text(255), unique=True),
        sa.Column("rotation_marker", text(255)),
        sa.Column("changed", sa.BigInteger, nullable=False, index=True),
        *_signature(),
    )
    op.create_table(
        "key_versions",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("key_id", text(36), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", text(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("wrapped", sa.LargeBinary),
        sa.Column("uses", sa.BigInteger, nullable=False, server_default="0"),
        sa.UniqueConstraint("key_id", "number"),
    )
    op.create_table(
        "providers",
        sa.Column("name", text(63), primary_key=True),
        sa.Column("key_id", text(36), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        *_signature(),
    )
    op.create_table(
        "activations",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("provider", text(63), sa.ForeignKey("providers.name"), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("key_id", text(36), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("version_id", text(36), sa.ForeignKey("key_versions.id"), nullable=False),
        sa.Column("state", text(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("provider", "sequence"),
    )
    op.create_table(
        "nodes",
        sa.Column("provider", text(63), primary_key=True),
        sa.Column("name", text(253), primary_key=True),
        sa.Column("loaded", sa.Integer, nullable=False),
        sa.Column("registered_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        *_signature(),
    )


def _signature() -> tuple[sa.Column[int], sa.Column[bytes]]:
    return (
        sa.Column("record_format", sa.Integer, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
