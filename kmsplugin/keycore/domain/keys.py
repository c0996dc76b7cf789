"""Keys, their versions, and the rules of their life (NIST SP 800-57 states, as REST shows them)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, IntEnum, StrEnum

from keycore.domain.ids import InstanceId, KeyId, VersionId, is_uuid
from keycore.errors import (
    InvalidRequestError,
    KeyDeletedError,
    KeyStateError,
    NotARootKeyError,
)

NAME_CHARACTERS = range(2, 91)
"""Allowed lengths of a key's name, in Unicode code points (``rest-contract`` 1.2)."""

DESCRIPTION_CHARACTERS = range(2, 241)
"""Allowed lengths of a description, in Unicode code points; absent is allowed too."""

MATERIAL_BITS = (256, 384, 512)
"""Sizes of imported key material that the seed allows."""

SHORT_MATERIAL_BITS = (128, 192)
"""Sizes that the seed forbids and Key Protect allows; allowed by a setting."""

ALIASES_MAX = 5
"""Aliases of one key (``rest-contract`` 1.2)."""

TAGS_MAX = 30
"""Tags of one key (``rest-contract`` 1.2)."""

TAG_CHARACTERS = range(1, 129)
"""Allowed lengths of a tag, in Unicode code points."""

_ALIAS = re.compile(r"[A-Za-z0-9_-]{2,90}")

ROOT_KEY_BYTES = 32
"""Every root key is an AES-256 key inside the HSM, whatever length was imported."""


class KeyKind(StrEnum):
    """What a key is for: wrapping other keys, or being handed out."""

    ROOT = "root"
    STANDARD = "standard"


class KeyState(IntEnum):
    """The numbers are those of the REST contract; there is no 4."""

    PRE_ACTIVE = 0
    ACTIVE = 1
    SUSPENDED = 2
    DEACTIVATED = 3
    DESTROYED = 5


class VersionState(StrEnum):
    """Life of one key version: pending → active → retired → destroyed.

    A pending version can decrypt but does not encrypt yet; exactly one version
    of a live key is active; a retired one only decrypts.
    """

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"
    DESTROYED = "destroyed"


class Operation(Enum):
    """What can be asked of a key; the value is the verb used in messages."""

    WRAP = "wrap"
    UNWRAP = "unwrap"
    REWRAP = "rewrap"
    ROTATE = "rotate"
    BIND = "be bound to a provider"


_ALLOWED_STATES: Mapping[Operation, frozenset[KeyState]] = {
    Operation.WRAP: frozenset({KeyState.ACTIVE}),
    # An expired key still opens what it once closed: Kubernetes data depends on it.
    Operation.UNWRAP: frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED}),
    Operation.REWRAP: frozenset({KeyState.ACTIVE}),
    Operation.ROTATE: frozenset({KeyState.ACTIVE}),
    Operation.BIND: frozenset({KeyState.ACTIVE}),
}


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One generation of key material.

    Attributes:
        number: 1 for the first version of a key, counting up without gaps.
        wrapped: the material, wrapped by the master key (root) or sealed (standard);
            ``None`` once destroyed.
    """

    id: VersionId
    number: int
    state: VersionState
    created_at: datetime
    wrapped: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A key with all its versions: the unit that is signed, stored and changed as a whole.

    Attributes:
        state: the stored state, one of ACTIVE, SUSPENDED and DESTROYED;
            :meth:`state_at` tells the state that callers see.
        bit_length: length of the generated or imported material.
        owner: the Kubernetes resource that manages the key, ``None`` for nobody.
        rotation_marker: the last rotation request that was carried out for the owner.
        versions: in order of their number, never empty.
        aliases: further names, each unique within the instance.
        tags: texts that mean nothing to keyplane.
        deleted_by: who deleted it, as ``created_by`` names who made it.
    """

    id: KeyId
    instance_id: InstanceId
    name: str
    description: str | None
    kind: KeyKind
    state: KeyState
    imported: bool
    bit_length: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    expires_at: datetime | None
    deleted_at: datetime | None
    owner: str | None
    rotation_marker: str | None
    versions: tuple[KeyVersion, ...]
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    deleted_by: str | None = None

    def state_at(self, now: datetime) -> KeyState:
        """Return the state that callers see at ``now``.

        A suspended key stays suspended when it expires, since DEACTIVATED would
        allow unwrap again.
        """
        expired = self.expires_at is not None and self.expires_at <= now
        return KeyState.DEACTIVATED if expired and self.state is KeyState.ACTIVE else self.state

    @property
    def current(self) -> KeyVersion:
        """The version that encrypts; for a deleted key the last one that did."""
        newest_first = reversed(self.versions)
        active = (v for v in newest_first if v.state is VersionState.ACTIVE)
        return next(active, self.versions[-1])

    @property
    def pending(self) -> KeyVersion | None:
        """The version that waits for every node to load it, if a rotation is under way."""
        waiting = [v for v in self.versions if v.state is VersionState.PENDING]
        return waiting[0] if waiting else None

    @property
    def rotated_at(self) -> datetime | None:
        """When the newest version was made; ``None`` while there is only the first."""
        newest = self.versions[-1]
        return newest.created_at if newest.number > 1 else None

    def version(self, version_id: VersionId) -> KeyVersion | None:
        """Return the version with that id if it belongs to this key."""
        return next((v for v in self.versions if v.id == version_id), None)


def ensure_allowed(key: Key, operation: Operation, now: datetime) -> None:
    """Check state and kind of ``key`` for ``operation``.

    Raises:
        KeyDeletedError: the key is destroyed.
        NotARootKeyError: the key is a standard key.
        KeyStateError: the state forbids the operation.
    """
    state = key.state_at(now)
    if state is KeyState.DESTROYED:
        raise KeyDeletedError(key.id)
    if key.kind is not KeyKind.ROOT:
        raise NotARootKeyError(f"key {key.id} is a standard key and cannot {operation.value}")
    if state not in _ALLOWED_STATES[operation]:
        raise KeyStateError(
            f"key {key.id} is {state.name.lower()} and cannot {operation.value}",
            hint=_STATE_HINTS.get(state, ""),
        )


_STATE_HINTS: Mapping[KeyState, str] = {
    KeyState.SUSPENDED: "resume (enable) the key first",
    KeyState.DEACTIVATED: "the key has expired; move its expiration date or use another key",
}


def with_new_version(key: Key, version: KeyVersion, now: datetime) -> Key:
    """Return ``key`` with ``version`` appended; an active one retires its predecessor."""
    versions = key.versions
    if version.state is VersionState.ACTIVE:
        versions = _retire_active(versions)
    return replace(key, versions=(*versions, version), updated_at=now)


def with_pending_activated(key: Key, now: datetime) -> Key:
    """Return ``key`` with its pending version active and the former one retired."""
    versions = tuple(
        replace(v, state=VersionState.ACTIVE) if v.state is VersionState.PENDING else v
        for v in _retire_active(key.versions)
    )
    return replace(key, versions=versions, updated_at=now)


def destroyed(key: Key, now: datetime, *, by: str) -> Key:
    """Return the tombstone of ``key``: versions without material, and its aliases set free."""
    versions = tuple(replace(v, state=VersionState.DESTROYED, wrapped=None) for v in key.versions)
    return replace(
        key,
        state=KeyState.DESTROYED,
        versions=versions,
        aliases=(),
        updated_at=now,
        deleted_at=now,
        deleted_by=by,
    )


def _retire_active(versions: tuple[KeyVersion, ...]) -> tuple[KeyVersion, ...]:
    return tuple(
        replace(v, state=VersionState.RETIRED) if v.state is VersionState.ACTIVE else v
        for v in versions
    )


def check_name(name: str) -> str:
    """Return ``name`` if it is a printable text of 2 to 90 characters.

    Raises:
        InvalidRequestError: it is not.
    """
    return _check_text(name, NAME_CHARACTERS, field="name")


def check_description(description: str | None) -> str | None:
    """Return ``description`` if it is absent or a printable text of 2 to 240 characters.

    Raises:
        InvalidRequestError: it is neither.
    """
    if description is None:
        return None
    return _check_text(description, DESCRIPTION_CHARACTERS, field="description")


def check_expiry(expires_at: datetime | None, now: datetime) -> datetime | None:
    """Return ``expires_at`` if it is absent or lies after ``now``.

    Raises:
        InvalidRequestError: it lies in the past.
    """
    if expires_at is not None and expires_at <= now:
        raise InvalidRequestError(
            "the expiration date must lie in the future", field="expirationDate"
        )
    return expires_at


def check_material(material: bytes, *, sizes: Sequence[int] = MATERIAL_BITS) -> bytes:
    """Return imported key material if its length is one of ``sizes``, in bits.

    Raises:
        InvalidRequestError: it has another length.
    """
    if len(material) * 8 not in sizes:
        allowed = ", ".join(map(str, sizes[:-1]))
        raise InvalidRequestError(
            f"the key material must be {allowed} or {sizes[-1]} bits long", field="payload"
        )
    return material


def check_aliases(aliases: Sequence[str]) -> tuple[str, ...]:
    """Return up to 5 different aliases of 2 to 90 letters, digits, ``-`` and ``_``.

    Raises:
        InvalidRequestError: too many, one twice, or one that has another form or
            that of a key id.
    """
    if len(aliases) > ALIASES_MAX or len(set(aliases)) != len(aliases):
        raise InvalidRequestError(
            f"a key may have up to {ALIASES_MAX} different aliases", field="aliases"
        )
    for alias in aliases:
        if not is_alias(alias):
            raise InvalidRequestError(
                "an alias has 2 to 90 characters A-Z, a-z, 0-9, '-' and '_', and is no UUID",
                field="aliases",
            )
    return tuple(aliases)


def is_alias(text: str) -> bool:
    """Tell whether ``text`` has the form of an alias, which is never that of a key id."""
    return _ALIAS.fullmatch(text) is not None and not is_uuid(text)


def check_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return up to 30 printable texts of 1 to 128 characters.

    Raises:
        InvalidRequestError: there are more, or one has another form.
    """
    if len(tags) > TAGS_MAX:
        raise InvalidRequestError(f"a key may have up to {TAGS_MAX} tags", field="tags")
    return tuple(_check_text(tag, TAG_CHARACTERS, field="tags") for tag in tags)


def _check_text(text: str, lengths: range, *, field: str) -> str:
    # Lone surrogates are not printable either, so what passes can be encoded as UTF-8.
    if len(text) not in lengths or not text.isprintable():
        raise InvalidRequestError(
            f"{field} must have {lengths.start} to {lengths.stop - 1} printable characters",
            field=field,
        )
    return text
