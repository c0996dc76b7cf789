"""Rows of providers, nodes and instances to domain values and back, and the tools for it.

A row that cannot be read as a domain value was changed by somebody else, and is
reported exactly like one whose MAC is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Row,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError as ConstraintError

from keycore.adapters import sql_tables as t
from keycore.domain.ids import ActivationId, InstanceId, KeyId, VersionId
from keycore.domain.instances import Installation, Instance
from keycore.domain.providers import Activation, ActivationState, Node, Provider
from keycore.errors import AlreadyExistsError, IntegrityError
from keycore.ports import Signed, SignedT

Values = Mapping[str, Any]


def signature_of(signed: Signed[SignedT]) -> dict[str, Any]:
    """Return the two columns that sign a record."""
    return {"record_format": signed.record_format, "mac": signed.mac}


@contextmanager
def read_as(kind: str, record_id: str) -> Iterator[None]:
    """Report a row that is no record of ours.

    Raises:
        IntegrityError: a column holds what we never write.
    """
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise IntegrityError(kind, record_id) from None


@contextmanager
def refusing_duplicates(message: str, *, hint: str = "") -> Iterator[None]:
    """Report a row that another one excludes.

    Raises:
        AlreadyExistsError: there is one.
    """
    try:
        yield
    except ConstraintError as error:
        # Any other constraint is violated by what somebody has changed by hand.
        name = getattr(error.orig, "sqlite_errorname", getattr(error.orig, "sqlstate", ""))
        if name not in _DUPLICATES:
            raise
        raise AlreadyExistsError(message, hint=hint) from None


_DUPLICATES = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505"})


def upsert(connection: Connection, table: Table, identity: Values, values: Values) -> None:
    """Update the row with that identity, or insert it."""
    changing, adding = _upserting(table, tuple(identity))
    own = {f"own_{name}": value for name, value in identity.items()}
    if connection.execute(changing, {**values, **own}).rowcount == 0:
        connection.execute(adding, {**identity, **values})


@cache
def _upserting(table: Table, identity: tuple[str, ...]) -> tuple[Update, Insert]:
    # To build a statement anew takes longer than to run it.
    matches = [table.c[name] == bindparam(f"own_{name}") for name in identity]
    return update(table).where(*matches), insert(table)


class SqlProviderRows:
    """The provider and node rows of one transaction."""

    def __init__(self, connection: Connection) -> None:
        """Use the connection of the transaction."""
        self._connection = connection

    def get(self, name: str) -> Signed[Provider] | None:
        """Return the provider with its ledger, or ``None``."""
        return next(iter(self._select(t.providers.c.name == name)), None)

    def all(self) -> Sequence[Signed[Provider]]:
        """Return every provider with its ledger, sorted by name."""
        return self._select()

    def save(self, provider: Signed[Provider]) -> None:
        """Insert or replace the provider and its ledger."""
        record = provider.record
        bump(self._connection)
        upsert(
            self._connection,
            t.providers,
            {"name": record.name},
            {
                "key_id": record.key_id,
                "created_at": record.created_at,
                "updated_at": record.updated_at,
            }
            | signature_of(provider),
        )
        for activation in record.activations:
            upsert(
                self._connection,
                t.activations,
                {"id": activation.id},
                {
                    "provider": record.name,
                    "sequence": activation.sequence,
                    "key_id": activation.key_id,
                    "version_id": activation.version_id,
                    "state": activation.state.value,
                    "created_at": activation.created_at,
                },
            )

    def nodes(self, provider: str | None = None) -> Sequence[Signed[Node]]:
        """Return the nodes of one or of every provider, sorted by name."""
        statement = select(t.nodes).order_by(t.nodes.c.provider, t.nodes.c.name)
        if provider is not None:
            statement = statement.where(t.nodes.c.provider == provider)
        return [_node(row) for row in self._connection.execute(statement)]

    def save_node(self, node: Signed[Node]) -> None:
        """Insert or replace the node; a heartbeat is no change that others must read."""
        record = node.record
        upsert(
            self._connection,
            t.nodes,
            {"provider": record.provider, "name": record.name},
            {
                "loaded": record.loaded,
                "registered_at": record.registered_at,
                "seen_at": record.seen_at,
            }
            | signature_of(node),
        )

    def remove_node(self, provider: str, name: str) -> None:
        """Remove the node if it is there."""
        self._connection.execute(
            delete(t.nodes).where(t.nodes.c.provider == provider, t.nodes.c.name == name)
        )

    def _select(self, *conditions: ColumnElement[bool]) -> list[Signed[Provider]]:
        rows = self._connection.execute(
            select(t.providers).where(*conditions).order_by(t.providers.c.name)
        ).all()
        return [_provider(row, self._ledger(row.name)) for row in rows]

    def _ledger(self, name: str) -> Sequence[Row[Any]]:
        return self._connection.execute(
            select(t.activations)
            .where(t.activations.c.provider == name)
            .order_by(t.activations.c.sequence)
        ).all()


def _provider(row: Row[Any], ledger: Iterable[Row[Any]]) -> Signed[Provider]:
    with read_as("provider", row.name):
        record = Provider(
            name=row.name,
            key_id=KeyId(row.key_id),
            created_at=row.created_at,
            updated_at=row.updated_at,
            activations=tuple(
                Activation(
                    id=ActivationId(activation.id),
                    sequence=activation.sequence,
                    key_id=KeyId(activation.key_id),
                    version_id=VersionId(activation.version_id),
                    state=ActivationState(activation.state),
                    created_at=activation.created_at,
                )
                for activation in ledger
            ),
        )
        return Signed(record, row.record_format, row.mac)


def _node(row: Row[Any]) -> Signed[Node]:
    with read_as("node", f"{row.provider}/{row.name}"):
        record = Node(row.provider, row.name, row.loaded, row.registered_at, row.seen_at)
        return Signed(record, row.record_format, row.mac)


class SqlInstanceRows:
    """The instance rows and the installation row of one transaction."""

    def __init__(self, connection: Connection) -> None:
        """Use the connection of the transaction."""
        self._connection = connection

    def get(self, instance_id: InstanceId) -> Signed[Instance] | None:
        """Return the instance or ``None``."""
        return next(iter(self._select(t.instances.c.id == instance_id)), None)

    def bound_to(self, namespace: str) -> Signed[Instance] | None:
        """Return the instance bound to the namespace, or ``None``."""
        return next(iter(self._select(t.instances.c.namespace == namespace)), None)

    def all(self) -> Sequence[Signed[Instance]]:
        """Return every instance, sorted by id."""
        return self._select()

    def save(self, instance: Signed[Instance]) -> None:
        """Insert or replace the instance.

        Raises:
            AlreadyExistsError: another instance is bound to the same namespace.
        """
        record = instance.record
        bump(self._connection)
        with refusing_duplicates(
            f"another instance is bound to namespace {record.namespace}",
            hint="unbind it first: keyplane instance bind <id> --unbind",
        ):
            upsert(
                self._connection,
                t.instances,
                {"id": record.id},
                {
                    "name": record.name,
                    "namespace": record.namespace,
                    "created_at": record.created_at,
                }
                | signature_of(instance),
            )

    def installation(self) -> Signed[Installation] | None:
        """Return the installation row, or ``None``."""
        row = self._connection.execute(select(t.installations)).one_or_none()
        if row is None:
            return None
        with read_as("installation", row.id):
            record = Installation(row.id, row.token_label, row.token_serial, row.created_at)
            return Signed(record, row.record_format, row.mac)

    def save_installation(self, installation: Signed[Installation]) -> None:
        """Insert the installation row."""
        record = installation.record
        self._connection.execute(
            insert(t.installations).values(
                id=record.id,
                token_label=record.token_label,
                token_serial=record.token_serial,
                created_at=record.created_at,
                **signature_of(installation),
            )
        )

    def _select(self, *conditions: ColumnElement[bool]) -> list[Signed[Instance]]:
        rows = self._connection.execute(
            select(t.instances).where(*conditions).order_by(t.instances.c.id)
        )
        return [_instance(row) for row in rows]


def _instance(row: Row[Any]) -> Signed[Instance]:
    with read_as("instance", row.id):
        record = Instance(InstanceId(row.id), row.name, row.namespace, row.created_at)
        return Signed(record, row.record_format, row.mac)


def bump(connection: Connection) -> int:
    """Count one more write, and return its number."""
    connection.execute(_COUNT_WRITE)
    newest: int = connection.execute(_NEWEST_WRITE).scalar_one()
    return newest


_COUNT_WRITE = update(t.changes).values(sequence=t.changes.c.sequence + 1)
_NEWEST_WRITE = select(t.changes.c.sequence)
