"""A store in memory: dictionaries, one writer at a time, rollback by copying."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime

from keycore.domain.ids import InstanceId, KeyId, VersionId
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key, KeyState
from keycore.domain.providers import Node, Provider
from keycore.errors import AlreadyExistsError, StoreUnavailableError
from keycore.ports import RECEIPT_AGE, AuditHead, Changes, KeyFilter, Receipt, Signed


@dataclass
class _Tables:
    sequence: int = 0
    keys: dict[KeyId, Signed[Key]] = field(default_factory=dict)
    aliases: dict[tuple[InstanceId, str], KeyId] = field(default_factory=dict)
    receipts: dict[bytes, Receipt] = field(default_factory=dict)
    changed: dict[KeyId, int] = field(default_factory=dict)
    providers: dict[str, Signed[Provider]] = field(default_factory=dict)
    nodes: dict[tuple[str, str], Signed[Node]] = field(default_factory=dict)
    instances: dict[InstanceId, Signed[Instance]] = field(default_factory=dict)
    installation: Signed[Installation] | None = None
    uses: dict[VersionId, int] = field(default_factory=dict)
    heads: dict[str, AuditHead] = field(default_factory=dict)

    def bump(self) -> int:
        self.sequence += 1
        return self.sequence


class _KeyRows:
    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    def get(self, key_id: KeyId) -> Signed[Key] | None:
        return self._tables.keys.get(key_id)

    def owned_by(self, owner: str) -> Signed[Key] | None:
        owned = (key for key in self._tables.keys.values() if key.record.owner == owner)
        return next(owned, None)

    def aliased(self, instance_id: InstanceId, alias: str) -> KeyId | None:
        return self._tables.aliases.get((instance_id, alias))

    def page(
        self, wanted: KeyFilter, now: datetime, *, offset: int, limit: int
    ) -> Sequence[Signed[Key]]:
        return self._matching(wanted, now)[offset : offset + limit]

    def count(self, wanted: KeyFilter, now: datetime) -> int:
        return len(self._matching(wanted, now))

    def save(self, key: Signed[Key]) -> None:
        record = key.record
        owner = self.owned_by(record.owner) if record.owner else None
        if owner is not None and owner.record.id != record.id:
            raise AlreadyExistsError("the resource owns another key already")
        aliases = {a: k for a, k in self._tables.aliases.items() if k != record.id}
        mine = {(record.instance_id, alias): record.id for alias in record.aliases}
        if aliases.keys() & mine.keys():
            raise AlreadyExistsError("another key of the instance has that alias")
        self._tables.aliases = aliases | mine
        self._tables.keys[record.id] = key
        self._tables.changed[record.id] = self._tables.bump()
        for version in record.versions:
            self._tables.uses.setdefault(version.id, 0)

    def receipt(self, receipt_id: bytes) -> Receipt | None:
        return self._tables.receipts.get(receipt_id)

    def save_receipt(self, receipt: Receipt) -> None:
        oldest = receipt.created_at - RECEIPT_AGE
        kept = {r.id: r for r in self._tables.receipts.values() if r.created_at >= oldest}
        self._tables.receipts = {**kept, receipt.id: receipt}

    def _matching(self, wanted: KeyFilter, now: datetime) -> list[Signed[Key]]:
        states = wanted.states
        if states is None:
            states = frozenset(s for s in KeyState if wanted.deleted or s is not KeyState.DESTROYED)
        return [
            key
            for _, key in sorted(self._tables.keys.items())
            if wanted.instance_id in (None, key.record.instance_id)
            and wanted.kind in (None, key.record.kind)
            and key.record.state_at(now) in states
        ]


class _ProviderRows:
    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    def get(self, name: str) -> Signed[Provider] | None:
        return self._tables.providers.get(name)

    def all(self) -> Sequence[Signed[Provider]]:
        return [provider for _, provider in sorted(self._tables.providers.items())]

    def save(self, provider: Signed[Provider]) -> None:
        self._tables.bump()
        self._tables.providers[provider.record.name] = provider

    def nodes(self, provider: str | None = None) -> Sequence[Signed[Node]]:
        return [
            node
            for (owner, _), node in sorted(self._tables.nodes.items())
            if provider in (None, owner)
        ]

    def save_node(self, node: Signed[Node]) -> None:
        self._tables.nodes[node.record.provider, node.record.name] = node

    def remove_node(self, provider: str, name: str) -> None:
        self._tables.nodes.pop((provider, name), None)


class _InstanceRows:
    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    def get(self, instance_id: InstanceId) -> Signed[Instance] | None:
        return self._tables.instances.get(instance_id)

    def bound_to(self, namespace: str) -> Signed[Instance] | None:
        return next((i for i in self.all() if i.record.namespace == namespace), None)

    def all(self) -> Sequence[Signed[Instance]]:
        return [instance for _, instance in sorted(self._tables.instances.items())]

    def save(self, instance: Signed[Instance]) -> None:
        namespace = instance.record.namespace
        bound = self.bound_to(namespace) if namespace else None
        if bound is not None and bound.record.id != instance.record.id:
            raise AlreadyExistsError(f"another instance is bound to namespace {namespace}")
        self._tables.bump()
        self._tables.instances[instance.record.id] = instance

    def installation(self) -> Signed[Installation] | None:
        return self._tables.installation

    def save_installation(self, installation: Signed[Installation]) -> None:
        self._tables.installation = installation


@dataclass(frozen=True)
class _Transaction:
    keys: _KeyRows
    providers: _ProviderRows
    instances: _InstanceRows


class MemoryStore:
    """``lost = True`` makes it behave like a database that is out of reach."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._lock = threading.RLock()
        self.lost = False
        self.scrubs = 0
        self.starts = 0
        self.epoch = ""
        self.tells_versions = True
        self._version = 0

    @contextmanager
    def reading(self) -> Iterator[_Transaction]:
        with self._lock:
            self._answer()
            yield _transaction(deepcopy(self._tables))

    @contextmanager
    def writing(self) -> Iterator[_Transaction]:
        with self._lock:
            self._answer()
            changed = deepcopy(self._tables)
            yield _transaction(changed)
            self._tables = changed

    def version(self) -> int:
        # Like one that cannot tell while it is away.
        if not self.lost and self.tells_versions:
            self._version = self._tables.sequence
        return self._version

    def changes_since(self, sequence: int) -> Changes:
        with self._lock:
            self._answer()
            changed = {k for k, written in self._tables.changed.items() if 0 < sequence < written}
            return Changes(self._tables.sequence, frozenset(changed), self.epoch)

    def reserve_uses(
        self, version_ids: Sequence[VersionId], count: int, limit: int
    ) -> dict[VersionId, int]:
        with self._lock:
            self._answer()
            uses = self._tables.uses
            granted = {v: max(0, min(count, limit - uses.get(v, limit))) for v in version_ids}
            for version_id, number in granted.items():
                if number:
                    uses[version_id] += number
            return granted

    def give_back_uses(self, unused: Mapping[VersionId, int]) -> None:
        with self._lock:
            self._answer()
            for version_id, count in unused.items():
                if self._tables.uses.get(version_id, 0) >= count:
                    self._tables.uses[version_id] -= count

    def count_start(self, limit: int) -> bool:
        with self._lock:
            self._answer()
            if self.starts >= limit:
                return False
            self.starts += 1
            return True

    def uses(self, version_ids: Iterable[VersionId]) -> Mapping[VersionId, int]:
        with self._lock:
            self._answer()
            return {v: self._tables.uses[v] for v in version_ids if v in self._tables.uses}

    def save_audit_head(self, head: AuditHead) -> None:
        with self._lock:
            self._answer()
            self._tables.heads[head.chain] = head

    def audit_heads(self) -> Sequence[AuditHead]:
        with self._lock:
            self._answer()
            return [head for _, head in sorted(self._tables.heads.items())]

    def scrub(self) -> None:
        self._answer()
        self.scrubs += 1

    def close(self) -> None:
        self.lost = True

    def _answer(self) -> None:
        if self.lost:
            raise StoreUnavailableError("the store does not answer")


def _transaction(tables: _Tables) -> _Transaction:
    return _Transaction(_KeyRows(tables), _ProviderRows(tables), _InstanceRows(tables))
