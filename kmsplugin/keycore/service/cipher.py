"""Makes and opens ciphertexts for every face, and counts how many each key version made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from keycore.domain import envelope
from keycore.domain.envelope import USES_MAX, Envelope, Face
from keycore.domain.ids import VersionId
from keycore.domain.keys import Key, KeyVersion
from keycore.errors import CiphertextRejectedError, IntegrityError, KeyExhaustedError
from keycore.ports import RootKeys, Store, WrappedKey

RESERVED_AHEAD = 2**16
"""Uses taken from the store at a time: one small write per 65,536 wraps, and at
most that many lost in a crash, which is nothing beside 2^32."""


class UseBudget:
    """Hands out encryptions of key versions from blocks reserved ahead in the store.

    NIST SP 800-38D, 8.3 bounds a key with random nonces to 2^32 encryptions; the
    count must survive crashes, and must never be too low.
    """

    def __init__(
        self,
        store: Store,
        *,
        block: int = RESERVED_AHEAD,
        limit: int = USES_MAX,
        warn: Callable[[VersionId, int], None] = lambda _version_id, _used: None,
    ) -> None:
        """Reserve ``block`` uses at a time, up to ``limit`` for each version.

        Args:
            store: where the count is kept.
            block: uses taken at a time; what is left of a block is lost when the
                process ends, so a process that seldom encrypts takes small ones.
            limit: uses of one version.
            warn: called once with version and count when half of them are gone.
        """
        self._store = store
        self._block = block
        self._limit = limit
        self._warn = warn
        self._left: dict[VersionId, int] = {}
        self._lock = threading.Lock()

    def take(self, version_id: VersionId) -> None:
        """Use one encryption.

        Raises:
            KeyExhaustedError: the version has reached the bound.
            StoreUnavailableError: a new block was needed and the store did not answer.
        """
        with self._lock:
            if not self._left.get(version_id):
                self._left[version_id] = self._reserve(version_id)
            self._left[version_id] -= 1

    def has(self, version_id: VersionId) -> bool:
        """Tell whether the next :meth:`take` would have no need of the store."""
        return bool(self._left.get(version_id))

    def prepare(self, version_id: VersionId) -> None:
        """Keep at least half a block in hand, so that a later :meth:`take` needs no store.

        Raises:
            KeyExhaustedError: the version has reached the bound.
            StoreUnavailableError: the store did not answer.
        """
        with self._lock:
            left = self._left.get(version_id, 0)
            if left <= self._block // 2:
                self._left[version_id] = left + self._reserve(version_id)

    def _reserve(self, version_id: VersionId) -> int:
        granted = self._store.reserve_uses(version_id, self._block, self._limit)
        if not granted:
            raise KeyExhaustedError(
                f"key version {version_id} has made {self._limit} ciphertexts, its bound",
                hint="rotate the key; what it has encrypted stays readable",
            )
        used = self._store.uses([version_id])[version_id]
        if used - granted < self._limit // 2 <= used:
            self._warn(version_id, used)
        return granted


class EnvelopeCipher:
    """Encrypts and decrypts under one version of one key."""

    def __init__(self, root_keys: RootKeys, budget: UseBudget) -> None:
        """Use ``root_keys`` for the cryptography and ``budget`` for the count."""
        self._root_keys = root_keys
        self._budget = budget

    def can_encrypt(self, version_id: VersionId) -> bool:
        """Tell whether the next :meth:`encrypt` would have no need of the store."""
        return self._budget.has(version_id)

    def encrypt(
        self, face: Face, key: Key, version: KeyVersion, plaintext: bytes, aad: Sequence[bytes]
    ) -> bytes:
        """Return a ciphertext of ``plaintext`` in the format of :mod:`keycore.domain.envelope`.

        Args:
            face: the face that will be able to open it.
            key: the key; its state was checked by the use case.
            version: the version of ``key`` to use.
            plaintext: 1..4096 bytes.
            aad: the caller's AAD, already encoded.

        Raises:
            KeyExhaustedError: the version has reached its bound.
            TokenUnavailableError: the token did not answer.
            StoreUnavailableError: the count could not be reserved.
        """
        wrapped = usable(key, version)
        self._budget.take(version.id)
        header = envelope.header_of(version.id)
        data = envelope.authenticated_data(face, key, header, aad)
        return header + self._root_keys.encrypt(wrapped, plaintext, data)

    def decrypt(self, face: Face, key: Key, parsed: Envelope, aad: Sequence[bytes]) -> bytes:
        """Return the plaintext; the version in the header gets exactly one attempt.

        Raises:
            CiphertextRejectedError: it does not belong to the key, face and AAD.
            TokenUnavailableError: the token did not answer.
        """
        version = key.version(parsed.version_id)
        if version is None:
            raise CiphertextRejectedError
        data = envelope.authenticated_data(face, key, parsed.header, aad)
        return self._root_keys.decrypt(usable(key, version), parsed.body, data)


def usable(key: Key, version: KeyVersion) -> WrappedKey:
    """Return the wrapped material of a version that a state check has allowed.

    Raises:
        IntegrityError: the record says that the key lives and holds no material.
    """
    if version.wrapped is None:
        raise IntegrityError("key", key.id)
    return WrappedKey(version.id, version.wrapped)
