"""The profile of tokens without AES-GCM: AES-256-CBC with HMAC-SHA-256.

A root key is two keys, one to encrypt and one to authenticate. Everything is encrypted
first and authenticated then (NIST SP 800-38A; RFC 2104), and the MAC is checked before
anything is decrypted or unwrapped: CBC is malleable, wrapping by CBC-PAD is too, and some
tokens do not even look at the padding.

A wrapped root key has 160 bytes:

====== ====== ==================================================================
offset size   meaning
====== ====== ==================================================================
0      16     IV, random, from the HSM
16     48     encryption key, wrapped by CBC-PAD under the master key
64     16     IV, random, from the HSM
80     48     authentication key, wrapped likewise
128    32     HMAC-SHA-256 by the record MAC key over the pre-authentication
              encoding of :data:`BLOB_LABEL` and the four fields before it
====== ====== ==================================================================
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import pkcs11
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from keycore.adapters import pkcs11_attributes as attributes
from keycore.adapters.pkcs11_profile import (
    MASTER,
    RECORD_MAC,
    RECORD_MAC_PLAN,
    SEALING,
    Login,
    ObjectPlan,
    create_in_transit,
    destroy_object,
    generate_in_transit,
    hands_out_readable,
    rehearsed,
    require_unreadable,
    sign,
)
from keycore.domain.envelope import (
    AES_256_CBC_HMAC_SHA_256,
    BLOCK_BYTES,
    IV_BYTES,
    MAC_BYTES,
    tagged_data,
)
from keycore.domain.framing import pre_auth_encode
from keycore.domain.keys import ROOT_KEY_BYTES
from keycore.errors import CiphertextRejectedError, IntegrityError, TokenUnavailableError

SEALING_MAC = "keyplane-sealing-mac"
"""Only this profile has such an object, so it tells the profile of a token."""

BLOB_LABEL: Final = b"keyplane/wrapped-key/cbc-hmac/1"

ENCRYPT_LABEL: Final = b"keyplane/import/encrypt/1"
AUTHENTICATE_LABEL: Final = b"keyplane/import/authenticate/1"
"""HKDF info (RFC 5869, SHA-512, no salt) that makes two keys of 32 bytes imported."""

_WRAPPED_BYTES: Final = ROOT_KEY_BYTES + BLOCK_BYTES
_FIELDS: Final = (IV_BYTES, _WRAPPED_BYTES, IV_BYTES, _WRAPPED_BYTES)
BLOB_BYTES: Final = sum(_FIELDS) + MAC_BYTES

_ENCRYPTION: Final = (KeyType.AES, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT)
_AUTHENTICATION: Final = (KeyType.GENERIC_SECRET, MechanismFlag.SIGN | MechanismFlag.VERIFY)

_WRAPPED_KEY: Final = "with this wrapped root key"
"""Instead of an id, which nobody knows here."""

_REHEARSAL_TEXT: Final = b"keyplane/rehearsal/1"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The two objects that one root key, or the sealing key, consists of."""

    encryption: Any
    authentication: Any


class CbcHmacProfile:
    """A wrapped key has 160 bytes; a body is IV (16), padded ciphertext and tag (32)."""

    name: Final = "cbc-hmac"

    suite: Final = AES_256_CBC_HMAC_SHA_256

    mechanisms: Final = (
        Mechanism.AES_KEY_GEN,
        Mechanism.AES_CBC_PAD,
        Mechanism.GENERIC_SECRET_KEY_GEN,
        Mechanism.SHA256_HMAC,
    )

    # The object that tells the profile comes first: a run that is interrupted after it
    # is continued with this profile, whatever the settings say by then.
    plans: Final[Mapping[str, ObjectPlan]] = {
        SEALING_MAC: ObjectPlan(*_AUTHENTICATION, template={}, may_be_copyable=True),
        MASTER: ObjectPlan(
            KeyType.AES,
            MechanismFlag.WRAP | MechanismFlag.UNWRAP,
            template={},
            may_be_copyable=True,
        ),
        SEALING: ObjectPlan(*_ENCRYPTION, template={}, may_be_copyable=True),
        RECORD_MAC: replace(RECORD_MAC_PLAN, may_be_copyable=True),
    }

    def rehearse(self, session: pkcs11.Session) -> None:
        """Do everything once on session objects; the token keeps nothing of it.

        A list of mechanisms does not tell what each is good for: SoftHSM2 has CBC-PAD
        for data and refuses to wrap keys by it.

        Raises:
            TokenUnavailableError: the token decrypts wrongly.
            TokenSetupError: it would make root keys readable.
        """
        with rehearsed(session, self) as login:
            working = self.working_copy(login, self.generate(login))
            body = self.encrypt(login, working, _REHEARSAL_TEXT, b"")
            opened = self.decrypt(login, working, body, b"")
            self.destroy(working)
        if opened != _REHEARSAL_TEXT:
            raise TokenUnavailableError("the token decrypts wrongly")

    def generate(self, login: Login) -> bytes:
        """Make two keys inside the token and return them wrapped and authenticated."""
        kinds = (key_type for key_type, _ in _KINDS)
        return _wrapped(login, (generate_in_transit(login.session, kind) for kind in kinds))

    def wrap_material(self, login: Login, material: bytes) -> bytes:
        """Return the two keys that are derived from 32 bytes of key material wrapped."""
        derived = (_derived(material, label) for label in (ENCRYPT_LABEL, AUTHENTICATE_LABEL))
        values = zip(_KINDS, derived, strict=True)
        return _wrapped(
            login, (create_in_transit(login.session, kind, value) for (kind, _), value in values)
        )

    def working_copy(self, login: Login, blob: bytes) -> KeyPair:
        """Unwrap a root key into two session objects, if it is one that this token wrapped.

        Raises:
            IntegrityError: it is not; nothing was unwrapped.
            TokenSetupError: the token would make it readable.
        """
        first_iv, first, second_iv, second = _authentic(login, blob)
        encryption = _unwrap_in_use(login, first, first_iv, _ENCRYPTION)
        try:
            return KeyPair(encryption, _unwrap_in_use(login, second, second_iv, _AUTHENTICATION))
        except BaseException:
            destroy_object(encryption)
            raise

    def destroy(self, working: Any) -> None:
        """Destroy a working copy, or what the token has left of it."""
        destroy_object(working.encryption)
        destroy_object(working.authentication)

    def encrypt(self, login: Login, working: Any, plaintext: bytes, aad: bytes) -> bytes:
        """Return IV, ciphertext and tag."""
        iv = login.session.generate_random(8 * IV_BYTES)
        encrypted: bytes = working.encryption.encrypt(
            plaintext, mechanism=Mechanism.AES_CBC_PAD, mechanism_param=iv
        )
        return iv + encrypted + _mac(working.authentication, aad, iv, encrypted)

    def decrypt(self, login: Login, working: Any, body: bytes, aad: bytes) -> bytes:  # noqa: ARG002 - of the protocol
        """Return the plaintext of IV, ciphertext and tag.

        Nothing is decrypted before the tag has proved who made it. So a padding that is
        wrong afterwards is the token's fault, and no answer tells anybody about paddings.

        Raises:
            CiphertextRejectedError: the tag is not the one of this key and AAD.
            TokenUnavailableError: the token decrypts wrongly.
        """
        iv, encrypted, tag = body[:IV_BYTES], body[IV_BYTES:-MAC_BYTES], body[-MAC_BYTES:]
        if len(body) < IV_BYTES + BLOCK_BYTES + MAC_BYTES or len(encrypted) % BLOCK_BYTES:
            raise CiphertextRejectedError
        if not hmac.compare_digest(_mac(working.authentication, aad, iv, encrypted), tag):
            raise CiphertextRejectedError
        plaintext: bytes = working.encryption.decrypt(
            encrypted, mechanism=Mechanism.AES_CBC_PAD, mechanism_param=iv
        )
        if not 1 <= len(encrypted) - len(plaintext) <= BLOCK_BYTES:
            raise TokenUnavailableError("the token decrypts wrongly")
        return plaintext

    def seal(self, login: Login, payload: bytes, aad: bytes) -> bytes:
        """Return IV, ciphertext and tag of ``payload`` under the two sealing keys."""
        return self.encrypt(login, _sealing_keys(login), payload, aad)

    def unseal(self, login: Login, sealed: bytes, aad: bytes) -> bytes:
        """Return the payload.

        Raises:
            CiphertextRejectedError: it does not open under this AAD.
            TokenUnavailableError: the token decrypts wrongly.
        """
        return self.decrypt(login, _sealing_keys(login), sealed, aad)

    def refuses_readable_unwrap(self, login: Login) -> bool:
        """Try what a thief with PIN and store would try; tell whether the token refuses it."""
        iv, encryption, *_ = _authentic(login, self.generate(login))
        unwrap = partial(_unwrap, login, encryption, iv, _ENCRYPTION)
        return not hands_out_readable(unwrap)


_KINDS: Final = (_ENCRYPTION, _AUTHENTICATION)
"""Of the two keys, in the order in which they lie in a wrapped root key."""


def _mac(key: Any, aad: bytes, iv: bytes, encrypted: bytes) -> bytes:
    """Return the tag. It is compared here: a token may take longer the more of it is right."""
    tag: bytes = key.sign(tagged_data(aad, iv, encrypted), mechanism=Mechanism.SHA256_HMAC)
    return tag


def _sealing_keys(login: Login) -> KeyPair:
    return KeyPair(login.objects[SEALING], login.objects[SEALING_MAC])


def _derived(material: bytes, label: bytes) -> bytes:
    return HKDF(SHA512(), ROOT_KEY_BYTES, salt=None, info=label).derive(material)


def _wrapped(login: Login, keys: Iterable[Any]) -> bytes:
    """Wrap and destroy one key after the other, as they are made."""
    fields = [field for key in keys for field in _wrap_and_destroy(login, key)]
    return b"".join(fields) + _blob_mac(login, fields)


def _blob_mac(login: Login, fields: Iterable[bytes]) -> bytes:
    return sign(login, pre_auth_encode((BLOB_LABEL, *fields)))


def _wrap_and_destroy(login: Login, key: Any) -> tuple[bytes, bytes]:
    try:
        iv = login.session.generate_random(8 * IV_BYTES)
        wrapped: bytes = login.objects[MASTER].wrap_key(
            key, mechanism=Mechanism.AES_CBC_PAD, mechanism_param=iv
        )
    finally:
        destroy_object(key)
    return iv, wrapped


def _authentic(login: Login, blob: bytes) -> list[bytes]:
    """Return the four fields of a wrapped key that this token has made.

    Raises:
        IntegrityError: it has not.
    """
    if len(blob) != BLOB_BYTES:
        raise IntegrityError("key", _WRAPPED_KEY)
    fields, offset = [], 0
    for size in _FIELDS:
        fields.append(blob[offset : offset + size])
        offset += size
    if not hmac.compare_digest(_blob_mac(login, fields), blob[offset:]):
        raise IntegrityError("key", _WRAPPED_KEY)
    return fields


def _unwrap(
    login: Login,
    wrapped: bytes,
    iv: bytes,
    kind: tuple[KeyType, MechanismFlag],
    template: attributes.Template,
) -> Any:
    key_type, capabilities = kind
    return login.objects[MASTER].unwrap_key(
        ObjectClass.SECRET_KEY,
        key_type,
        wrapped,
        mechanism=Mechanism.AES_CBC_PAD,
        mechanism_param=iv,
        store=False,
        capabilities=capabilities,
        template=template,
    )


def _unwrap_in_use(
    login: Login, wrapped: bytes, iv: bytes, kind: tuple[KeyType, MechanismFlag]
) -> Any:
    key = _unwrap(login, wrapped, iv, kind, attributes.HIDDEN)
    try:
        # openCryptoki passes over both at unwrap and takes them afterwards, one way only.
        if not key[Attribute.SENSITIVE]:
            key[Attribute.SENSITIVE] = True
        if key[Attribute.EXTRACTABLE]:
            key[Attribute.EXTRACTABLE] = False
        require_unreadable(key)
    except BaseException:
        destroy_object(key)
        raise
    return key
