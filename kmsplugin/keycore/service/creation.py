"""What a new key is made of: checks of the request, material from the token or the caller."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycore.domain.framing import encode_fields
from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.domain.keys import (
    MATERIAL_BITS,
    ROOT_KEY_BYTES,
    Key,
    KeyKind,
    KeyState,
    check_aliases,
    check_description,
    check_expiry,
    check_material,
    check_name,
    check_tags,
)
from keycore.errors import InvalidRequestError
from keycore.ports import Token
from keycore.service import rotation
from keycore.service.caller import Caller
from keycore.service.cipher import usable

FOLD_LABEL = b"keyplane/import/fold/1"
"""HKDF info that turns imported material of another length into an AES-256 key (RFC 5869)."""

IDEMPOTENCY_KEY_CHARACTERS_MAX = 255

_IDEMPOTENCY_KEY = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_CHARACTERS_MAX}}}")


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
        aliases: up to 5 further names, unique within the instance.
        tags: up to 30 texts of 1..128 printable characters.
    """

    name: str
    kind: KeyKind = KeyKind.ROOT
    description: str | None = None
    expires_at: datetime | None = None
    material: bytes | None = field(default=None, repr=False)
    owner: str | None = None
    rotation_marker: str | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class KeyMaker:
    """Turns a request into a key whose material only the token can use."""

    def __init__(self, token: Token, *, material_bits: Sequence[int] = MATERIAL_BITS) -> None:
        """Generate and protect in ``token``; imports have one of ``material_bits``."""
        self._token = token
        self._material_bits = material_bits

    def check(self, wanted: NewKey, now: datetime) -> None:
        """Check every field of ``wanted``.

        Raises:
            InvalidRequestError: one is out of bounds.
        """
        check_name(wanted.name)
        check_description(wanted.description)
        check_expiry(wanted.expires_at, now)
        check_aliases(wanted.aliases)
        check_tags(wanted.tags)
        if wanted.material is not None:
            self.check_material(wanted.material)

    def check_material(self, material: bytes) -> bytes:
        """Return imported material of an allowed length.

        Raises:
            InvalidRequestError: it has another one.
        """
        return check_material(material, sizes=self._material_bits)

    def make(self, instance_id: InstanceId, wanted: NewKey, *, by: str, now: datetime) -> Key:
        """Return a new key in state ACTIVE; the caller saves it.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        key_id = KeyId(new_uuid())
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
            created_by=by,
            updated_at=now,
            expires_at=wanted.expires_at,
            deleted_at=None,
            owner=wanted.owner,
            rotation_marker=wanted.rotation_marker,
            versions=(rotation.first_version(protected, now),),
            aliases=wanted.aliases,
            tags=wanted.tags,
        )

    def wrapped(self, material: bytes | None) -> bytes:
        """Return a new root key version, wrapped: generated, or from imported material.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        if material is None:
            return self._token.generate_key()
        return self._token.import_key(fold_to_aes_256(material))

    def payload(self, key: Key) -> bytes:
        """Return the material of a live standard key.

        Raises:
            IntegrityError: the record holds no material, or none that opens.
            TokenUnavailableError: the token did not answer.
        """
        return self._token.unseal(usable(key, key.current).blob, _seal_aad(key.instance_id, key.id))

    def _protected(self, key_id: KeyId, instance_id: InstanceId, wanted: NewKey) -> bytes:
        """Return what the store may hold of a new key: wrapped or sealed material."""
        if wanted.kind is KeyKind.ROOT:
            return self.wrapped(wanted.material)
        payload = wanted.material or self._token.random_bytes(ROOT_KEY_BYTES)
        return self._token.seal(payload, _seal_aad(instance_id, key_id))


def fold_to_aes_256(material: bytes) -> bytes:
    """Return 32 bytes for a root key: 256 bits as they are, other lengths by HKDF.

    An AES-256 key has no other length, so these go through HKDF-SHA-512 (RFC 5869)
    without salt and with :data:`FOLD_LABEL`; whoever holds the material can
    compute the same key elsewhere.
    """
    if len(material) == ROOT_KEY_BYTES:
        return material
    return HKDF(SHA512(), ROOT_KEY_BYTES, salt=None, info=FOLD_LABEL).derive(material)


def is_idempotency_key(text: str) -> bool:
    """Tell whether ``text`` is 1..255 visible ASCII characters."""
    return _IDEMPOTENCY_KEY.fullmatch(text) is not None


def receipt_id(caller: Caller, instance_id: InstanceId, idempotency_key: str) -> bytes:
    """Return 32 bytes that name a repeatable request of one caller in one instance.

    Args:
        caller: who asks; nobody else's key of the same text means the same request.
        instance_id: where.
        idempotency_key: 1..255 visible ASCII characters.

    Raises:
        InvalidRequestError: the idempotency key has another form.
    """
    if not is_idempotency_key(idempotency_key):
        raise InvalidRequestError(
            "an idempotency key has 1 to 255 visible ASCII characters", field="idempotencyKey"
        )
    named = encode_fields((caller.face, caller.actor, instance_id, idempotency_key))
    return hashlib.sha256(named).digest()


def encode_request(wanted: NewKey) -> bytes:
    """Return an injective encoding of all that ``wanted`` asks for; it holds the material."""
    return encode_fields(
        (
            wanted.name,
            wanted.kind.value,
            wanted.description,
            wanted.expires_at,
            wanted.material,
            encode_fields(wanted.aliases),
            encode_fields(wanted.tags),
        )
    )


def _seal_aad(instance_id: InstanceId, key_id: KeyId) -> bytes:
    # Standard keys have one version only, so the version is part of what the label fixes.
    return encode_fields(("keyplane/seal/1", instance_id, key_id, KeyKind.STANDARD.value, 1))
