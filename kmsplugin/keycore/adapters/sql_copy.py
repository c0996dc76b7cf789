"""Copies a whole store from one engine to another, and compares them row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

from sqlalchemy import (
    Connection,
    MetaData,
    Row,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from keycore.adapters import sql_tables as t
from keycore.errors import StoreSetupError

_ROWS: Final = 2_000
"""Rows that are held in memory at once."""

Advance = Callable[[int], None]
"""Told of every few rows that are done."""


def count_rows(connection: Connection) -> int:
    """Return the number of rows of all tables, but for what audits add at any time."""
    return sum(
        connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in t.metadata.sorted_tables
        if table is not t.audit_heads
    )


def copy_rows(source: Connection, target: Connection, advance: Advance) -> None:
    """Copy every row into a target without rows of its own.

    Args:
        source: inside a transaction that keeps every writer out.
        target: likewise; what is there before is only what its migrations have put there.
        advance: told how many rows more were copied.
    """
    present = {*inspect(source).get_table_names()} & {*inspect(target).get_table_names()}
    tables = [table for table in t.metadata.sorted_tables if table.name in present]
    for table in tables:
        if table is t.audit_heads:
            target.execute(delete(table))
    for table in tables:
        into = _as_stored(table, target)
        # Every writer locks the one row of changes, which therefore must stay the same one.
        statement = update(into) if table is t.changes else insert(into)
        for rows in _pages(source, table):
            target.execute(statement, [dict(row._mapping) for row in rows])  # noqa: SLF001
            advance(len(rows))
    if target.dialect.name == "postgresql":
        # By itself the server counts new rows after a minute, and until then it would
        # read all keys to find the few that were changed.
        for table in tables:
            target.execute(text(f"ANALYZE {table.name}"))


def compare_rows(source: Connection, target: Connection, advance: Advance) -> None:
    """Compare every column of every row, but for what the audit of either has added since.

    Args:
        source: as in :func:`copy_rows`.
        target: likewise.
        advance: told how many rows more were compared.

    Raises:
        StoreSetupError: they differ; the message names table and row.
    """
    for table in (table for table in t.metadata.sorted_tables if table is not t.audit_heads):
        pairs = zip_longest(_pages(source, table), _pages(target, table), fillvalue=())
        for ours, theirs in pairs:
            _compare(table, ours, theirs)
            advance(len(ours))


def _compare(table: Table, ours: Sequence[Row[Any]], theirs: Sequence[Row[Any]]) -> None:
    for mine, other in zip_longest(ours, theirs):
        if mine is None or other is None or tuple(mine) != tuple(other):
            present = mine if mine is not None else other
            name = [getattr(present, column.name) for column in table.primary_key]
            shown = "/".join(part.hex() if isinstance(part, bytes) else str(part) for part in name)
            raise StoreSetupError(
                f"row {shown} of table {table.name} is not the same in both stores",
                hint="nothing was moved; run it again with an empty database",
            )


def _pages(connection: Connection, table: Table) -> Iterator[Sequence[Row[Any]]]:
    stored = _as_stored(table, connection)
    # A stream of its own: the whole of it would not fit into memory.
    streaming = connection.execution_options(yield_per=_ROWS)
    yield from streaming.execute(select(stored).order_by(*stored.primary_key)).partitions()


def _as_stored(table: Table, connection: Connection) -> Table:
    """Return the table with what the database itself says of its columns.

    Values then pass as they lie there, also those that are no record of ours.
    """
    return Table(table.name, MetaData(), autoload_with=connection, resolve_fks=False)
