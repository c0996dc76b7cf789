"""A token in memory, of either kind, with real cryptography and keys that anybody can read."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.padding import PKCS7

from keycore.domain.envelope import AES_256_GCM, Suite, tagged_data
from keycore.domain.ids import VersionId
from keycore.errors import CiphertextRejectedError, TokenUnavailableError
from keycore.ports import TokenCondition, TokenDescription, WrappedKey


class InsecureMemoryToken:
    """Does what a token does. ``lost = True`` makes it behave like one that was pulled out."""

    def __init__(self, suite: Suite = AES_256_GCM) -> None:
        self.suite = suite
        self._encrypt, self._decrypt = _CIPHERS[suite.code]
        self._master = os.urandom(32)
        self._sealing = os.urandom(32)
        self._record_mac = os.urandom(32)
        self.lost = False
        self.current = TokenCondition()
        self.forgotten: list[VersionId] = []

    def generate_key(self) -> bytes:
        return self.import_key(os.urandom(32))

    def import_key(self, material: bytes) -> bytes:
        self._answer()
        return aes_key_wrap_with_padding(self._master, material)

    def encrypt(self, key: WrappedKey, plaintext: bytes, aad: bytes) -> bytes:
        return self._encrypt(self._unwrap(key), plaintext, aad)

    def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        return self._decrypt(self._unwrap(key), body, aad)

    def forget(self, version_ids: Iterable[VersionId]) -> None:
        self.forgotten.extend(version_ids)

    def random_bytes(self, count: int) -> bytes:
        self._answer()
        return os.urandom(count)

    def seal(self, payload: bytes, aad: bytes) -> bytes:
        self._answer()
        return self._encrypt(self._sealing, payload, aad)

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        self._answer()
        return self._decrypt(self._sealing, sealed, aad)

    def sign(self, data: bytes) -> bytes:
        self._answer()
        return hmac.new(self._record_mac, data, hashlib.sha256).digest()

    def is_signed(self, data: bytes, mac: bytes) -> bool:
        return hmac.compare_digest(self.sign(data), mac)

    def check(self) -> None:
        self._answer()

    def condition(self) -> TokenCondition:
        return self.current

    def describe(self) -> TokenDescription:
        return TokenDescription("memory", "0", "tests", "memory", guards_unwrapping=False)

    def close(self) -> None:
        self.lost = True

    def _unwrap(self, key: WrappedKey) -> bytes:
        self._answer()
        try:
            return aes_key_unwrap_with_padding(self._master, key.blob)
        except InvalidUnwrap:
            raise TokenUnavailableError("the token could not unwrap a key") from None

    def _answer(self) -> None:
        if self.lost:
            raise TokenUnavailableError("the token does not answer")


def _encrypt_gcm(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, aad)


def _decrypt_gcm(key: bytes, body: bytes, aad: bytes) -> bytes:
    if len(body) < 28:
        raise CiphertextRejectedError
    try:
        return AESGCM(key).decrypt(body[:12], body[12:], aad)
    except InvalidTag:
        raise CiphertextRejectedError from None


def _encrypt_cbc(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    iv, padder = os.urandom(16), PKCS7(128).padder()
    cipher = Cipher(AES(_derived(key, "encrypt")), CBC(iv)).encryptor()
    encrypted = cipher.update(padder.update(plaintext) + padder.finalize()) + cipher.finalize()
    return iv + encrypted + _tag(key, aad, iv, encrypted)


def _decrypt_cbc(key: bytes, body: bytes, aad: bytes) -> bytes:
    iv, encrypted, tag = body[:16], body[16:-32], body[-32:]
    if len(body) < 64 or not hmac.compare_digest(_tag(key, aad, iv, encrypted), tag):
        raise CiphertextRejectedError
    cipher = Cipher(AES(_derived(key, "encrypt")), CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(cipher.update(encrypted) + cipher.finalize()) + unpadder.finalize()


def _tag(key: bytes, aad: bytes, iv: bytes, encrypted: bytes) -> bytes:
    tagged = tagged_data(aad, iv, encrypted)
    return hmac.new(_derived(key, "authenticate"), tagged, hashlib.sha256).digest()


def _derived(key: bytes, purpose: str) -> bytes:
    info = f"keyplane/import/{purpose}/1".encode()
    return HKDF(SHA512(), 32, salt=None, info=info).derive(key)


_CIPHERS = {1: (_encrypt_gcm, _decrypt_gcm), 2: (_encrypt_cbc, _decrypt_cbc)}
