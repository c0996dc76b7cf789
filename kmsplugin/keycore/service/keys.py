"""The life of keys: create, import, adopt, list, rotate, suspend, delete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import (
    Key,
    KeyState,
    Operation,
    check_aliases,
    check_description,
    check_expiry,
    check_name,
    destroyed,
    ensure_allowed,
)
from keycore.errors import (
    KeyOwnedError,
    PayloadNotAllowedError,
    PayloadRequiredError,
    StoreUnavailableError,
)
from keycore.ports import Clock, RootKeys, Store
from keycore.service import rotation
from keycore.service.caller import Auditor, Caller, Decision
from keycore.service.creation import KeyMaker, NewKey, encode_request, receipt_id
from keycore.service.key_cache import KeyCache
from keycore.service.key_reading import KeyReader, OpenedKey, ensure_live, ensure_unused
from keycore.service.records import Records, Unit


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes to what describes a key; ``None`` leaves a field as it is."""

    name: str | None = None
    description: str | None = None
    expires_at: datetime | None = None


class KeyService(KeyReader):
    """Use cases on keys. ``within`` is the caller's instance, ``None`` an administrator's view."""

    def __init__(
        self,
        records: Records,
        store: Store,
        *,
        maker: KeyMaker,
        root_keys: RootKeys,
        cache: KeyCache,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        """Keep keys in ``records``, made by ``maker``, with working copies in ``root_keys``."""
        super().__init__(records, store, maker=maker, auditor=auditor, clock=clock)
        self._root_keys = root_keys
        self._cache = cache

    def create(
        self,
        caller: Caller,
        instance_id: InstanceId,
        wanted: NewKey,
        *,
        idempotency_key: str | None = None,
    ) -> Key:
        """Generate or import a key, active at once.

        Args:
            caller: for the audit line.
            instance_id: where it will live.
            wanted: what it will be.
            idempotency_key: 1..255 visible ASCII characters; the same request of the
                same caller under the same one returns the key that the first made.

        Raises:
            InvalidRequestError: a field is out of bounds.
            InstanceNotFoundError: no such instance.
            AlreadyExistsError: another key of the instance has one of the aliases.
            IdempotencyKeyReusedError: the idempotency key named another request.
            KeyDeletedError: the owner's or the first request's key was deleted.
            KeyOwnedError: the owner's key lies in another instance.
            UnavailableError: token or store did not answer; nothing was made.
        """
        with self._creation(caller, instance_id, wanted) as decision:
            return self._create(caller, instance_id, wanted, idempotency_key, decision)

    def create_opened(
        self,
        caller: Caller,
        instance_id: InstanceId,
        wanted: NewKey,
        *,
        idempotency_key: str | None = None,
    ) -> OpenedKey:
        """Do what :meth:`create` does, and return a standard key with its material."""
        with self._creation(caller, instance_id, wanted) as decision:
            key = self._create(caller, instance_id, wanted, idempotency_key, decision)
            return self._opened(key)

    def rotate(
        self,
        caller: Caller,
        key_id: KeyId,
        *,
        within: InstanceId | None = None,
        material: bytes | None = None,
        marker: str | None = None,
    ) -> Key:
        """Give a key a new version; older versions go on opening what they closed.

        A key that KMS providers use goes through the pending phase first.

        Args:
            caller: for the audit line.
            key_id: a root key in state ACTIVE.
            within: the caller's instance.
            material: 32, 48 or 64 bytes for an imported key, ``None`` for a generated one.
            marker: the owner's name for this request; when it is the last one that
                was carried out, nothing happens, so the call can be repeated safely.

        Raises:
            InvalidRequestError: material missing the size, given for a generated key,
                or no root key.
            PayloadRequiredError: an imported key without new material.
            KeyNotFoundError: no such key in the instance.
            KeyStateError: the state forbids it.
            RotationPendingError: an earlier rotation is not finished.
            UnavailableError: token or store did not answer; nothing was changed.
        """
        with self._changing(caller, "key.rotate", key_id, within) as (unit, key, decision):
            now = self._clock.now()
            ensure_allowed(key, Operation.ROTATE, now)
            if marker is not None and key.rotation_marker == marker:
                return key
            self._check_rotation_material(key, material)
            marked = replace(
                key,
                rotation_marker=key.rotation_marker if marker is None else marker,
                bit_length=key.bit_length if material is None else 8 * len(material),
            )
            rotated = rotation.add_version(unit, marked, self._maker.wrapped(material), now)
            newest = rotated.versions[-1]
            decision.note(version=newest.id, number=newest.number, state=newest.state.value)
            return rotated

    def suspend(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Make a key refuse everything until it is resumed; suspending twice is once.

        Raises:
            KeyNotFoundError, KeyDeletedError: no such live key in the instance.
            KeyInUseError: a KMS provider needs it.
            UnavailableError: token or store did not answer.
        """
        return self._set_state(caller, "key.suspend", key_id, within, KeyState.SUSPENDED)

    def resume(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Undo :meth:`suspend`; resuming an active key changes nothing.

        Raises:
            KeyNotFoundError, KeyDeletedError: no such live key in the instance.
            UnavailableError: token or store did not answer.
        """
        return self._set_state(caller, "key.resume", key_id, within, KeyState.ACTIVE)

    def edit(
        self, caller: Caller, key_id: KeyId, edits: Edits, *, within: InstanceId | None = None
    ) -> Key:
        """Change name, description or expiration date.

        Raises:
            InvalidRequestError: a value is out of bounds.
            KeyNotFoundError, KeyDeletedError: no such live key in the instance.
            UnavailableError: token or store did not answer.
        """
        with self._changing(caller, "key.edit", key_id, within) as (unit, key, _):
            ensure_live(key)
            now = self._clock.now()
            changed = replace(
                key,
                name=key.name if edits.name is None else check_name(edits.name),
                description=check_description(edits.description) or key.description,
                expires_at=check_expiry(edits.expires_at, now) or key.expires_at,
                updated_at=now,
            )
            unit.save_key(changed)
            return changed

    def adopt(
        self,
        caller: Caller,
        key_id: KeyId,
        owner: str,
        *,
        within: InstanceId,
        rotation_marker: str | None = None,
    ) -> Key:
        """Put an existing key under the management of a resource; repeating changes nothing.

        Raises:
            KeyNotFoundError, KeyDeletedError: no such live key in the instance.
            KeyOwnedError: another resource manages it, or the resource has a key.
            UnavailableError: token or store did not answer.
        """
        with self._changing(caller, "key.adopt", key_id, within) as (unit, key, _):
            ensure_live(key)
            if key.owner == owner:
                return key
            if key.owner is not None or unit.key_owned_by(owner) is not None:
                raise KeyOwnedError(
                    f"key {key_id} is managed by another resource",
                    hint="a key has one owner; delete the other Key with deletionPolicy: Retain",
                )
            adopted = replace(
                key, owner=owner, rotation_marker=rotation_marker, updated_at=self._clock.now()
            )
            unit.save_key(adopted)
            return adopted

    def release(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """End the management by a resource and keep the key; repeating changes nothing.

        Raises:
            KeyNotFoundError: no such key in the instance.
            UnavailableError: token or store did not answer.
        """
        with self._changing(caller, "key.release", key_id, within) as (unit, key, _):
            if key.owner is None:
                return key
            released = replace(key, owner=None, updated_at=self._clock.now())
            unit.save_key(released)
            return released

    def delete(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Destroy the material of every version, for ever, and leave a tombstone.

        Raises:
            KeyNotFoundError: no such key in the instance.
            KeyDeletedError: it was deleted before.
            KeyInUseError: a KMS provider needs it to open what lies in etcd.
            UnavailableError: token or store did not answer; nothing was deleted.
        """
        with self._changing(caller, "key.delete", key_id, within) as (unit, key, decision):
            ensure_live(key)
            ensure_unused(unit, key)
            tombstone = destroyed(key, self._clock.now(), by=caller.actor)
            unit.save_key(tombstone)
            decision.note(versions=len(key.versions))
        self._root_keys.forget(version.id for version in key.versions)
        self._scrub()
        return tombstone

    def add_alias(
        self, caller: Caller, key_id: KeyId, alias: str, *, within: InstanceId | None = None
    ) -> Key:
        """Give a key one more alias; one that it has already changes nothing.

        Raises:
            InvalidRequestError: the alias is malformed, or the key has five.
            AlreadyExistsError: another key of the instance has it.
            KeyNotFoundError, KeyDeletedError: no such live key in the instance.
            StoreUnavailableError: the store did not answer.
        """
        with self._changing(caller, "key.add_alias", key_id, within) as (unit, key, decision):
            decision.note(alias=alias)
            ensure_live(key)
            if alias in key.aliases:
                return key
            return self._save_aliases(unit, key, check_aliases((*key.aliases, alias)))

    def remove_alias(
        self, caller: Caller, key_id: KeyId, alias: str, *, within: InstanceId | None = None
    ) -> Key:
        """Take an alias from a key; one that it does not have changes nothing.

        Raises:
            KeyNotFoundError, KeyDeletedError: no such live key in the instance.
            StoreUnavailableError: the store did not answer.
        """
        with self._changing(caller, "key.remove_alias", key_id, within) as (unit, key, decision):
            decision.note(alias=alias)
            ensure_live(key)
            left = tuple(known for known in key.aliases if known != alias)
            return key if left == key.aliases else self._save_aliases(unit, key, left)

    def _save_aliases(self, unit: Unit, key: Key, aliases: tuple[str, ...]) -> Key:
        changed = replace(key, aliases=aliases, updated_at=self._clock.now())
        unit.save_key(changed)
        return changed

    def _scrub(self) -> None:
        try:
            self._store.scrub()
        except StoreUnavailableError:
            # The deletion is committed and must be answered as such; opening the
            # store scrubs again, so the bytes go with the next start at the latest.
            return

    @contextmanager
    def _changing(
        self, caller: Caller, operation: str, key_id: KeyId, within: InstanceId | None
    ) -> Iterator[tuple[Unit, Key, Decision]]:
        """Open a transaction on one key, audit its outcome and drop the cached copy."""
        with self._auditor.decision(caller, operation, key=key_id, instance=within) as decision:
            with self._records.writing() as unit:
                yield unit, unit.key(key_id, within=within), decision
            self._cache.drop(key_id)

    def _set_state(
        self,
        caller: Caller,
        operation: str,
        key_id: KeyId,
        within: InstanceId | None,
        state: KeyState,
    ) -> Key:
        with self._changing(caller, operation, key_id, within) as (unit, key, _):
            ensure_live(key)
            if state is KeyState.SUSPENDED:
                ensure_unused(unit, key)
            if key.state is state:
                return key
            changed = replace(key, state=state, updated_at=self._clock.now())
            unit.save_key(changed)
            return changed

    @contextmanager
    def _creation(
        self, caller: Caller, instance_id: InstanceId, wanted: NewKey
    ) -> Iterator[Decision]:
        operation = "key.create" if wanted.material is None else "key.import"
        with self._auditor.decision(caller, operation, instance=instance_id) as decision:
            yield decision

    def _create(
        self,
        caller: Caller,
        instance_id: InstanceId,
        wanted: NewKey,
        idempotency_key: str | None,
        decision: Decision,
    ) -> Key:
        now = self._clock.now()
        self._maker.check(wanted, now)
        receipt = (
            None if idempotency_key is None else receipt_id(caller, instance_id, idempotency_key)
        )
        with self._records.writing() as unit:
            key = self._made_before(unit, instance_id, wanted, receipt)
            if key is None:
                unit.instance(instance_id)
                key = self._maker.make(instance_id, wanted, by=caller.actor, now=now)
                unit.save_key(key)
                if receipt is not None:
                    unit.save_receipt(receipt, encode_request(wanted), key)
            else:
                decision.note(repeated=1)
        decision.note(key=key.id, version=key.current.id)
        return key

    def _made_before(
        self, unit: Unit, instance_id: InstanceId, wanted: NewKey, receipt: bytes | None
    ) -> Key | None:
        """Return the key that the same owner or the same request has already."""
        existing = unit.key_owned_by(wanted.owner) if wanted.owner else None
        if existing is None and receipt is not None:
            existing = unit.key_made_before(receipt, encode_request(wanted))
        return None if existing is None else _ensure_reusable(existing, instance_id)

    def _check_rotation_material(self, key: Key, material: bytes | None) -> None:
        if not key.imported and material is not None:
            raise PayloadNotAllowedError
        if key.imported and material is None:
            raise PayloadRequiredError(f"key {key.id} was imported: new key material is required")
        if material is not None:
            self._maker.check_material(material)


def _ensure_reusable(key: Key, instance_id: InstanceId) -> Key:
    if key.instance_id != instance_id:
        raise KeyOwnedError(
            f"the resource's key {key.id} lies in instance {key.instance_id}",
            hint="bind the namespace to that instance: keyplane instance bind",
        )
    return ensure_live(key)
