"""Schema migrations, run by Alembic on a connection that the store opened."""

from __future__ import annotations

from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a revision inside the connection's transaction.

    Args:
        connection: inside a transaction; no other process may upgrade meanwhile.
        revision: default the newest one.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: a step failed; nothing was changed.
    """
    scripts = ScriptDirectory(__path__[0])

    def steps(present: Any, _: MigrationContext) -> list[Any]:
        # Alembic's own ``command.upgrade`` does the same, but wants a configuration file.
        return scripts._upgrade_revs(revision, present)  # noqa: SLF001

    context = MigrationContext.configure(connection, opts={"fn": steps})
    with Operations.context(context):
        context.run_migrations()
