"""The life of keys: create, import, adopt, list, rotate, suspend, delete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycore.domain.framing import encode_fields
from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.domain.keys import (
    ROOT_KEY_BYTES,
    Key,
    KeyKind,
    KeyState,
    Operation,
    check_description,
    check_expiry,
    check_material,
    check_name,
    destroyed,
    ensure_allowed,
)
from keycore.errors import (
    InvalidRequestError,
    KeyDeletedError,
    KeyInUseError,
    KeyOwnedError,
    PayloadRequiredError,
    StoreUnavailableError,
)
from keycore.ports import Clock, KeyFilter, Store, Token
from keycore.service import rotation
from keycore.service.caller import Auditor, Caller, Decision
from keycore.service.cipher import usable
from keycore.service.key_cache import KeyCache
from keycore.service.records import Records, Unit

FOLD_LABEL = b"keyplane/import/fold/1"
"""HKDF info that turns 384 or 512 imported bits into an AES-256 key (RFC 5869)."""

PAGE_MAX = 5000
"""Keys in one page at most."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a caller wants of a key that does not exist yet.

    Attributes:
        name: 2..90 printable characters, not unique.
        description: 2..240 printable characters, or ``None``.
        material: 32, 48 or 64 bytes to import; ``None`` generates the key in the token.
        owner: the Kubernetes resource that will manage it; creating a second key for
            the same owner returns the first, so a create can be repeated safely.
        rotation_marker: the owner's rotation request that counts as carried out.
    """

    name: str
    kind: KeyKind = KeyKind.ROOT
    description: str | None = None
    expires_at: datetime | None = None
    material: bytes | None = field(default=None, repr=False)
    owner: str | None = None
    rotation_marker: str | None = None


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes to what describes a key; ``None`` leaves a field as it is."""

    name: str | None = None
    description: str | None = None
    expires_at: datetime | None = None


class KeyService:
    """Use cases on keys. ``within`` is the caller's instance, ``None`` an administrator's view."""

    def __init__(
        self,
        records: Records,
        store: Store,
        token: Token,
        cache: KeyCache,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        """Keep keys in ``records`` and their working copies in ``token``."""
        self._records = records
        self._store = store
        self._token = token
        self._cache = cache
        self._auditor = auditor
        self._clock = clock

    def create(self, caller: Caller, instance_id: InstanceId, wanted: NewKey) -> Key:
        """Generate or import a key, active at once.

        Raises:
            InvalidRequestError: a field of ``wanted`` is out of bounds.
            InstanceNotFoundError: no such instance.
            KeyDeletedError: the owner's key existed and was deleted.
            KeyOwnedError: the owner's key lies in another instance.
            UnavailableError: token or store did not answer; nothing was made.
        """
        key_id = KeyId(new_uuid())
        operation = "key.create" if wanted.material is None else "key.import"
        with self._auditor.decision(caller, operation, instance=instance_id) as decision:
            now = self._clock.now()
            self._check_new(wanted, now)
            with self._records.writing() as unit:
                existing = unit.key_owned_by(wanted.owner) if wanted.owner else None
                if existing is None:
                    unit.instance(instance_id)
                    key = self._new_key(key_id, instance_id, wanted, caller.actor, now)
                    unit.save_key(key)
                else:
                    key = _ensure_reusable(existing, instance_id)
            decision.note(key=key.id, version=key.current.id)
            return key

    def get(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Return a key as the store has it now; a deleted one is its tombstone.

        Raises:
            KeyNotFoundError: no such key in the instance.
            IntegrityError: its record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with (
            self._auditor.decision(caller, "key.get", key=key_id, instance=within),
            self._records.reading() as unit,
        ):
            return unit.key(key_id, within=within)

    def owned_by(self, owner: str) -> Key | None:
        """Return the key that a resource manages, or ``None``.

        Raises:
            IntegrityError: its record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return unit.key_owned_by(owner)

    def page(
        self, caller: Caller, wanted: KeyFilter, *, offset: int = 0, limit: int = 200
    ) -> list[Key]:
        """Return up to ``limit`` keys (1..5000) from ``offset`` on, sorted by id.

        Raises:
            InvalidRequestError: offset or limit out of bounds.
            IntegrityError: a record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._auditor.decision(caller, "key.list", instance=wanted.instance_id):
            if offset < 0:
                raise InvalidRequestError("offset must not be negative", field="offset")
            if not 1 <= limit <= PAGE_MAX:
                raise InvalidRequestError(f"limit must be 1 to {PAGE_MAX}", field="limit")
            with self._records.reading() as unit:
                return unit.keys(wanted, offset=offset, limit=limit)

    def count(self, caller: Caller, wanted: KeyFilter) -> int:
        """Return the number of keys.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        with (
            self._auditor.decision(caller, "key.count", instance=wanted.instance_id),
            self._records.reading() as unit,
        ):
            return unit.count_keys(wanted)

    def payload(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> bytes:
        """Return the material of a standard key, 32..64 bytes, of a suspended one too.

        Raises:
            InvalidRequestError: the key is a root key, whose material never leaves.
            KeyNotFoundError: no such key in the instance.
            KeyDeletedError: it was deleted.
            IntegrityError: its record was changed.
            UnavailableError: token or store did not answer.
        """
        with (
            self._auditor.decision(caller, "key.payload", key=key_id, instance=within),
            self._records.reading() as unit,
        ):
            key = _ensure_live(unit.key(key_id, within=within))
            if key.kind is not KeyKind.STANDARD:
                raise InvalidRequestError(f"key {key_id} is a root key and is never handed out")
            return self._token.unseal(
                usable(key, key.current).blob, _seal_aad(key.instance_id, key.id)
            )

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
            _check_rotation_material(key, material)
            marked = replace(
                key,
                rotation_marker=key.rotation_marker if marker is None else marker,
                bit_length=key.bit_length if material is None else 8 * len(material),
            )
            rotated = rotation.add_version(unit, marked, self._wrapped(material), now)
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
            _ensure_live(key)
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
            _ensure_live(key)
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
            _ensure_live(key)
            _ensure_unused(unit, key)
            tombstone = destroyed(key, self._clock.now())
            unit.save_key(tombstone)
            decision.note(versions=len(key.versions))
        self._token.forget(version.id for version in key.versions)
        self._scrub()
        return tombstone

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
            _ensure_live(key)
            if state is KeyState.SUSPENDED:
                _ensure_unused(unit, key)
            if key.state is state:
                return key
            changed = replace(key, state=state, updated_at=self._clock.now())
            unit.save_key(changed)
            return changed

    def _check_new(self, wanted: NewKey, now: datetime) -> None:
        check_name(wanted.name)
        check_description(wanted.description)
        check_expiry(wanted.expires_at, now)
        if wanted.material is not None:
            check_material(wanted.material)

    def _new_key(
        self, key_id: KeyId, instance_id: InstanceId, wanted: NewKey, actor: str, now: datetime
    ) -> Key:
        protected = self._protected(key_id, instance_id, wanted)
        return Key(
            id=key_id,
            instance_id=instance_id,
            name=wanted.name,
            description=wanted.description,
            kind=wanted.kind,
            state=KeyState.ACTIVE,
            imported=wanted.material is not None,
            bit_length=8 * len(wanted.material or bytes(ROOT_KEY_BYTES)),
            created_at=now,
            created_by=actor,
            updated_at=now,
            expires_at=wanted.expires_at,
            deleted_at=None,
            owner=wanted.owner,
            rotation_marker=wanted.rotation_marker,
            versions=(rotation.first_version(protected, now),),
        )

    def _protected(self, key_id: KeyId, instance_id: InstanceId, wanted: NewKey) -> bytes:
        """Return what the store may hold of a new key: wrapped or sealed material."""
        if wanted.kind is KeyKind.ROOT:
            return self._wrapped(wanted.material)
        payload = wanted.material or self._token.random_bytes(ROOT_KEY_BYTES)
        return self._token.seal(payload, _seal_aad(instance_id, key_id))

    def _wrapped(self, material: bytes | None) -> bytes:
        """Return a new root key version, wrapped: generated, or from imported material."""
        if material is None:
            return self._token.generate_key()
        return self._token.import_key(fold_to_aes_256(material))


def fold_to_aes_256(material: bytes) -> bytes:
    """Return 32 bytes for a root key: 256 bits as they are, 384 and 512 bits by HKDF.

    No AES key has 384 or 512 bits, so these go through HKDF-SHA-512 (RFC 5869)
    without salt and with :data:`FOLD_LABEL`; whoever holds the material can
    compute the same key elsewhere.
    """
    if len(material) == ROOT_KEY_BYTES:
        return material
    return HKDF(SHA512(), ROOT_KEY_BYTES, salt=None, info=FOLD_LABEL).derive(material)


def _check_rotation_material(key: Key, material: bytes | None) -> None:
    if not key.imported and material is not None:
        raise InvalidRequestError(
            "'payload' must be: provided only if key is imported", field="payload"
        )
    if key.imported and material is None:
        raise PayloadRequiredError(f"key {key.id} was imported: new key material is required")
    if material is not None:
        check_material(material)


def _ensure_live(key: Key) -> Key:
    if key.state is KeyState.DESTROYED:
        raise KeyDeletedError(key.id)
    return key


def _ensure_reusable(key: Key, instance_id: InstanceId) -> Key:
    if key.instance_id != instance_id:
        raise KeyOwnedError(
            f"the resource's key {key.id} lies in instance {key.instance_id}",
            hint="bind the namespace to that instance: keyplane instance bind",
        )
    return _ensure_live(key)


def _ensure_unused(unit: Unit, key: Key) -> None:
    users = [provider.name for provider in unit.providers() if provider.needs(key.id)]
    if users:
        raise KeyInUseError(
            f"key {key.id} is needed by KMS provider {', '.join(users)}",
            hint="bind the provider to another key, rewrite every object in etcd, then "
            f"keyplane provider release {users[0]} --key {key.id}",
        )


def _seal_aad(instance_id: InstanceId, key_id: KeyId) -> bytes:
    # Standard keys have one version only, so the version is part of what the label fixes.
    return encode_fields(("keyplane/seal/1", instance_id, key_id, KeyKind.STANDARD.value, 1))
