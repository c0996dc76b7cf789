"""Heads of the audit chains, and an index for lists of all instances."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from keycore.adapters.sql_types import text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a table and an index."""
    op.create_table(
        "audit_heads",
        sa.Column("chain", text(36), primary_key=True),
        sa.Column("node", text(253), nullable=False),
        sa.Column("name", text(63), nullable=False),
        sa.Column("line", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_keys_list", "keys", ["id", "state", "kind", "expires_at"])
