"""Makes and opens ciphertexts for every face."""

from __future__ import annotations

from collections.abc import Sequence

from keycore.domain import envelope
from keycore.domain.envelope import Envelope, Face
from keycore.domain.ids import VersionId
from keycore.domain.keys import Key, KeyVersion
from keycore.errors import CiphertextRejectedError, IntegrityError
from keycore.ports import RootKeys, WrappedKey
from keycore.service.use_budget import UseBudget


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
        header = envelope.header_of(self._root_keys.suite, version.id)
        data = envelope.authenticated_data(face, key, header, aad)
        return header + self._root_keys.encrypt(wrapped, plaintext, data)

    def decrypt(self, face: Face, key: Key, parsed: Envelope, aad: Sequence[bytes]) -> bytes:
        """Return the plaintext; the version in the header gets exactly one attempt.

        Raises:
            CiphertextRejectedError: it does not belong to the key, face and AAD.
            TokenUnavailableError: the token did not answer.
        """
        version = key.version(parsed.version_id)
        if version is None or parsed.suite is not self._root_keys.suite:
            # No key of this token makes ciphertexts of another suite.
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
