"""Schema migrations, run by Alembic on a connection that the store opened."""

from __future__ import annotations

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_SCRIPTS = "keycore.adapters.migrations"


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest revision inside the connection's transaction.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: a step failed; nothing was changed.
    """
    scripts = ScriptDirectory(__path__[0])

    def steps(revision: object, _: MigrationContext) -> list[object]:
        return scripts._upgrade_revs("head", revision)

    context = MigrationContext.configure(connection, opts={"fn": steps})
    with Operations.context(context):
        context.run_migrations()
