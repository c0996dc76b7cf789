"""Rows of keys, their versions, aliases and receipts to domain values and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    false,
    func,
    insert,
    or_,
    select,
)

from keycore.adapters import sql_tables as t
from keycore.adapters.sql_rows import bump, read_as, refusing_duplicates, signature_of, upsert
from keycore.domain.ids import InstanceId, KeyId, VersionId
from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion, VersionState
from keycore.ports import RECEIPT_AGE, KeyFilter, Receipt, Signed

IdT = TypeVar("IdT", bound=str)


class SqlKeyRows:
    """The key rows of one transaction."""

    def __init__(self, connection: Connection) -> None:
        """Use the connection of the transaction."""
        self._connection = connection

    def get(self, key_id: KeyId) -> Signed[Key] | None:
        """Return the key with its versions, or ``None``."""
        # The hot one of the reads, so its statements are built once and for all.
        row = self._connection.execute(_BY_ID, {"key": key_id}).one_or_none()
        if row is None:
            return None
        return _key(row, self._connection.execute(_VERSIONS_OF, {"key": key_id}))

    def owned_by(self, owner: str) -> Signed[Key] | None:
        """Return the key that the resource owns, or ``None``."""
        return self._one(t.keys.c.owner == owner)

    def aliased(self, instance_id: InstanceId, alias: str) -> KeyId | None:
        """Return which key has the alias, or ``None``."""
        aliases = t.key_aliases.c
        statement = select(aliases.key_id).where(
            aliases.instance_id == instance_id, aliases.alias == alias
        )
        return self._connection.execute(statement).scalar_one_or_none()

    def page(
        self, wanted: KeyFilter, now: datetime, *, offset: int, limit: int
    ) -> Sequence[Signed[Key]]:
        """Return one page, sorted by id, with two statements whatever its size."""
        # What comes before the page is passed in an index, and its rows are not read.
        ids = (
            select(t.keys.c.id)
            .where(*_matching(wanted, now))
            .order_by(t.keys.c.id)
            .offset(offset)
            .limit(limit)
            .correlate(None)
        )
        rows = self._connection.execute(
            select(t.keys).where(t.keys.c.id.in_(ids)).order_by(t.keys.c.id)
        ).all()
        return self._with_versions(rows)

    def count(self, wanted: KeyFilter, now: datetime) -> int:
        """Return the number of matching keys."""
        counted = select(func.count()).select_from(t.keys).where(*_matching(wanted, now))
        return self._connection.execute(counted).scalar_one()

    def save(self, key: Signed[Key]) -> None:
        """Insert or replace the key and its versions.

        Raises:
            AlreadyExistsError: another key has the same owner or alias.
        """
        record = key.record
        with refusing_duplicates("the resource owns another key already"):
            upsert(
                self._connection,
                t.keys,
                {"id": record.id},
                _key_values(record) | signature_of(key) | {"changed": bump(self._connection)},
            )
        for version in record.versions:
            upsert(
                self._connection,
                t.key_versions,
                {"id": version.id},
                {
                    "key_id": record.id,
                    "number": version.number,
                    "state": version.state.value,
                    "created_at": version.created_at,
                    "wrapped": version.wrapped,
                },
            )

        self._save_aliases(record)

    def receipt(self, receipt_id: bytes) -> Receipt | None:
        """Return the receipt or ``None``."""
        row = self._connection.execute(
            select(t.receipts).where(t.receipts.c.id == receipt_id)
        ).one_or_none()
        return Receipt(row.id, KeyId(row.key_id), row.mac, row.created_at) if row else None

    def save_receipt(self, receipt: Receipt) -> None:
        """Insert the receipt, and remove those that have passed their age."""
        oldest = receipt.created_at - RECEIPT_AGE
        self._connection.execute(delete(t.receipts).where(t.receipts.c.created_at < oldest))
        self._connection.execute(
            insert(t.receipts).values(
                id=receipt.id,
                key_id=receipt.key_id,
                mac=receipt.mac,
                created_at=receipt.created_at,
            )
        )

    def _save_aliases(self, key: Key) -> None:
        aliases = t.key_aliases
        before = set(self._connection.execute(_ALIASES_OF, {"key": key.id}).scalars())
        if before == set(key.aliases):
            return
        self._connection.execute(delete(aliases).where(aliases.c.key_id == key.id))
        with refusing_duplicates("another key of the instance has that alias"):
            for alias in key.aliases:
                self._connection.execute(
                    insert(aliases).values(instance_id=key.instance_id, alias=alias, key_id=key.id)
                )

    def _one(self, condition: ColumnElement[bool]) -> Signed[Key] | None:
        rows = self._connection.execute(select(t.keys).where(condition)).all()
        return next(iter(self._with_versions(rows)), None)

    def _with_versions(self, rows: Sequence[Row[Any]]) -> list[Signed[Key]]:
        ids = [row.id for row in rows]
        versions: dict[str, list[Row[Any]]] = {key_id: [] for key_id in ids}
        for chunk in chunks(ids):
            found = self._connection.execute(_VERSIONS, {"ids": chunk})
            for version in found:
                versions[version.key_id].append(version)
        return [_key(row, versions[row.id]) for row in rows]


_BY_ID = select(t.keys).where(t.keys.c.id == bindparam("key"))

_VERSIONS_OF = (
    select(t.key_versions)
    .where(t.key_versions.c.key_id == bindparam("key"))
    .order_by(t.key_versions.c.number)
)

_ALIASES_OF = select(t.key_aliases.c.alias).where(t.key_aliases.c.key_id == bindparam("key"))

_VERSIONS = (
    select(t.key_versions)
    .where(t.key_versions.c.key_id.in_(bindparam("ids", expanding=True)))
    .order_by(t.key_versions.c.number)
)

_PARAMETERS_MAX = 500
"""Values in one IN list; SQLite's own bound was 999 for long."""


def chunks(ids: Sequence[IdT]) -> Iterator[Sequence[IdT]]:
    """Cut ids into pieces that fit into one IN list."""
    for start in range(0, len(ids), _PARAMETERS_MAX):
        yield ids[start : start + _PARAMETERS_MAX]


def _matching(wanted: KeyFilter, now: datetime) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.instance_id is not None:
        conditions.append(t.keys.c.instance_id == wanted.instance_id)
    if wanted.kind is not None:
        conditions.append(t.keys.c.kind == wanted.kind.value)
    if wanted.states is not None:
        conditions.append(or_(false(), *(_seen_as(state, now) for state in wanted.states)))
    elif not wanted.deleted:
        conditions.append(t.keys.c.state != int(KeyState.DESTROYED))
    return conditions


def _seen_as(state: KeyState, now: datetime) -> ColumnElement[bool]:
    """Return what :meth:`Key.state_at` means in SQL: an active key may have expired."""
    stored, expiry = t.keys.c.state, t.keys.c.expires_at
    match state:
        case KeyState.ACTIVE:
            return and_(stored == int(KeyState.ACTIVE), or_(expiry.is_(None), expiry > now))
        case KeyState.DEACTIVATED:
            return and_(stored == int(KeyState.ACTIVE), expiry <= now)
        case _:
            return stored == int(state)


def _key_values(key: Key) -> dict[str, Any]:
    return {
        "instance_id": key.instance_id,
        "name": key.name,
        "description": key.description,
        "kind": key.kind.value,
        "state": int(key.state),
        "imported": key.imported,
        "bit_length": key.bit_length,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "updated_at": key.updated_at,
        "expires_at": key.expires_at,
        "deleted_at": key.deleted_at,
        "owner": key.owner,
        "rotation_marker": key.rotation_marker,
        "aliases": _as_text(key.aliases),
        "tags": _as_text(key.tags),
        "deleted_by": key.deleted_by,
    }


def _as_text(texts: Sequence[str]) -> str | None:
    return json.dumps(texts) if texts else None


def _from_text(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(json.loads(text))


def _key(row: Row[Any], versions: Iterable[Row[Any]]) -> Signed[Key]:
    with read_as("key", row.id):
        record = Key(
            id=KeyId(row.id),
            instance_id=InstanceId(row.instance_id),
            name=row.name,
            description=row.description,
            kind=KeyKind(row.kind),
            state=KeyState(row.state),
            imported=row.imported,
            bit_length=row.bit_length,
            created_at=row.created_at,
            created_by=row.created_by,
            updated_at=row.updated_at,
            expires_at=row.expires_at,
            deleted_at=row.deleted_at,
            owner=row.owner,
            rotation_marker=row.rotation_marker,
            versions=tuple(
                KeyVersion(
                    id=VersionId(version.id),
                    number=version.number,
                    state=VersionState(version.state),
                    created_at=version.created_at,
                    wrapped=version.wrapped,
                )
                for version in versions
            ),
            aliases=_from_text(row.aliases),
            tags=_from_text(row.tags),
            deleted_by=row.deleted_by,
        )
        return Signed(record, row.record_format, row.mac)
