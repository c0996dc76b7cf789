"""Wrap, unwrap and rewrap of data keys under root keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from keycore.domain import envelope
from keycore.domain.envelope import Face
from keycore.domain.ids import InstanceId, KeyId, VersionId
from keycore.domain.keys import (
    ROOT_KEY_BYTES,
    Key,
    KeyState,
    KeyVersion,
    Operation,
    ensure_allowed,
)
from keycore.errors import CiphertextRejectedError, KeyExhaustedError, StoreUnavailableError
from keycore.ports import Clock, Sealer
from keycore.service.caller import Auditor, Caller
from keycore.service.cipher import EnvelopeCipher
from keycore.service.key_cache import KeyCache


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The answer to wrap.

    Attributes:
        plaintext: the generated data key, 32 bytes; ``None`` when the caller gave one.
    """

    ciphertext: bytes
    version: KeyVersion
    plaintext: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The answer to unwrap.

    Attributes:
        version: the version that made the ciphertext.
        rewrapped: a new ciphertext under the current version, when the given one is
            of an older version and the key can encrypt; otherwise ``None``.
    """

    plaintext: bytes = field(repr=False)
    version: KeyVersion
    rewrapped: Rewrapped | None


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A ciphertext carried over to the current version.

    Attributes:
        version: the version that made the former ciphertext.
        rewrapped_version: the one that made this.
    """

    ciphertext: bytes
    version: KeyVersion
    rewrapped_version: KeyVersion


class WrappingService:
    """The operations on data keys; the face label keeps faces apart."""

    def __init__(
        self, keys: KeyCache, cipher: EnvelopeCipher, sealer: Sealer, auditor: Auditor, clock: Clock
    ) -> None:
        """Take keys from ``keys`` and random data keys from ``sealer``."""
        self._keys = keys
        self._cipher = cipher
        self._sealer = sealer
        self._auditor = auditor
        self._clock = clock

    def is_warm(self, key_id: KeyId) -> bool:
        """Tell whether wrap and unwrap of this key would have no need of the store now.

        A face that serves many callers in one thread asks before it calls.
        """
        key = self._keys.peek(key_id)
        return key is not None and self._cipher.can_encrypt(key.current.id)

    def wrap(
        self,
        caller: Caller,
        instance_id: InstanceId,
        key_id: KeyId,
        plaintext: bytes | None = None,
        aad: Sequence[str] = (),
    ) -> Wrapped:
        """Encrypt a data key, or make one and encrypt it.

        Args:
            caller: for the audit line.
            instance_id: the caller's instance.
            key_id: a root key in state ACTIVE.
            plaintext: 1..4096 bytes; ``None`` makes 32 random bytes in the token.
            aad: up to 126 texts of up to 255 characters; the same list opens it again.

        Raises:
            InvalidRequestError: plaintext or AAD out of bounds, or no root key.
            KeyNotFoundError: no such key in the instance.
            KeyStateError: the key may not wrap.
            KeyExhaustedError: the current version has reached its bound.
            IntegrityError: the key's record was changed.
            UnavailableError: token or store did not answer.
        """
        with self._auditor.decision(
            caller, "key.wrap", instance=instance_id, key=key_id
        ) as decision:
            encoded = envelope.encode_aad(aad)
            if plaintext is not None:
                envelope.check_plaintext(plaintext)
            key = self._allowed(instance_id, key_id, Operation.WRAP)
            decision.note(version=key.current.id)
            data_key = plaintext or self._sealer.random_bytes(ROOT_KEY_BYTES)
            ciphertext = self._cipher.encrypt(Face.REST, key, key.current, data_key, encoded)
            return Wrapped(ciphertext, key.current, None if plaintext else data_key)

    def unwrap(
        self,
        caller: Caller,
        instance_id: InstanceId,
        key_id: KeyId,
        ciphertext: bytes,
        aad: Sequence[str] = (),
    ) -> Unwrapped:
        """Decrypt what :meth:`wrap` returned.

        Raises:
            CiphertextMalformedError: not a ciphertext of this format.
            CiphertextRejectedError: it does not open under this key and AAD.
            InvalidRequestError: AAD out of bounds, or no root key.
            KeyNotFoundError: no such key in the instance.
            KeyStateError: the key may not unwrap.
            IntegrityError: the key's record was changed.
            UnavailableError: token or store did not answer.
        """
        with self._auditor.decision(
            caller, "key.unwrap", instance=instance_id, key=key_id
        ) as decision:
            encoded = envelope.encode_aad(aad)
            parsed = envelope.parse(ciphertext)
            key = self._allowed(instance_id, key_id, Operation.UNWRAP, parsed.version_id)
            decision.note(version=parsed.version_id)
            plaintext = self._cipher.decrypt(Face.REST, key, parsed, encoded)
            made_by = _version(key, parsed.version_id)
            rewrapped = self._carried_over(key, made_by, plaintext, encoded)
            return Unwrapped(plaintext, made_by, rewrapped)

    def rewrap(
        self,
        caller: Caller,
        instance_id: InstanceId,
        key_id: KeyId,
        ciphertext: bytes,
        aad: Sequence[str] = (),
    ) -> Rewrapped:
        """Carry a ciphertext over to the current version without showing the plaintext.

        Raises:
            As :meth:`unwrap`, and KeyExhaustedError as :meth:`wrap`.
        """
        with self._auditor.decision(
            caller, "key.rewrap", instance=instance_id, key=key_id
        ) as decision:
            encoded = envelope.encode_aad(aad)
            parsed = envelope.parse(ciphertext)
            key = self._allowed(instance_id, key_id, Operation.REWRAP, parsed.version_id)
            decision.note(version=parsed.version_id, rewrapped_version=key.current.id)
            plaintext = self._cipher.decrypt(Face.REST, key, parsed, encoded)
            return self._rewrapped(key, _version(key, parsed.version_id), plaintext, encoded)

    def _allowed(
        self,
        instance_id: InstanceId,
        key_id: KeyId,
        operation: Operation,
        version_id: VersionId | None = None,
    ) -> Key:
        key = self._keys.key(key_id, within=instance_id)
        if version_id is not None and key.version(version_id) is None:
            # Another process may have made that version a moment ago, and a rejected
            # ciphertext is final for a caller: look again before saying so.
            self._keys.refresh()
            key = self._keys.key(key_id, within=instance_id)
        ensure_allowed(key, operation, self._clock.now())
        return key

    def _carried_over(
        self, key: Key, old: KeyVersion, plaintext: bytes, aad: Sequence[bytes]
    ) -> Rewrapped | None:
        may_encrypt = key.state_at(self._clock.now()) is KeyState.ACTIVE
        if old.number >= key.current.number or not may_encrypt:
            return None
        try:
            return self._rewrapped(key, old, plaintext, aad)
        except (KeyExhaustedError, StoreUnavailableError):
            # The new ciphertext is an extra, and unwrap must work at the bound too.
            return None

    def _rewrapped(
        self, key: Key, old: KeyVersion, plaintext: bytes, aad: Sequence[bytes]
    ) -> Rewrapped:
        ciphertext = self._cipher.encrypt(Face.REST, key, key.current, plaintext, aad)
        return Rewrapped(ciphertext, old, key.current)


def _version(key: Key, version_id: VersionId) -> KeyVersion:
    """Return a version that has just decrypted, so it belongs to the key."""
    version = key.version(version_id)
    if version is None:
        raise CiphertextRejectedError
    return version
