"""Aliases, tags and who deleted a key; receipts of repeatable creates; counted starts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from keycore.adapters.sql_types import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns that are empty in old rows, two tables, and the index for pages."""
    op.add_column("changes", sa.Column("starts", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("keys", sa.Column("aliases", sa.Text))
    op.add_column("keys", sa.Column("tags", sa.Text))
    op.add_column("keys", sa.Column("deleted_by", text(320)))
    op.create_index("ix_keys_instance_id_id", "keys", ["instance_id", "id"])
    op.drop_index("ix_keys_instance_id", "keys")
    op.create_table(
        "key_aliases",
        sa.Column("instance_id", text(36), sa.ForeignKey("instances.id"), primary_key=True),
        sa.Column("alias", text(90), primary_key=True),
        sa.Column("key_id", text(36), sa.ForeignKey("keys.id"), nullable=False, index=True),
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.LargeBinary(32), primary_key=True),
        sa.Column("key_id", text(36), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    )
    if op.get_bind().dialect.name != "sqlite":  # SQLite keeps no length.
        op.alter_column("keys", "created_by", type_=text(320))
