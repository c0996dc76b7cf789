"""The profile of tokens with AES-256-GCM and AES key wrap with padding (RFC 5649)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass

from keycore.adapters import pkcs11_attributes as attributes
from keycore.adapters.pkcs11_errors import REJECTED_ON_DECRYPT
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
    require_unreadable,
    sign,
)
from keycore.domain.envelope import AES_256_GCM, NONCE_BYTES, TAG_BYTES
from keycore.errors import CiphertextRejectedError, TokenUnavailableError

_CIPHER: Final = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT

_TAG_BITS: Final = 8 * TAG_BYTES

_KNOWN_TEXT: Final = b"keyplane/known-answer/1"


class GcmProfile:
    """A wrapped key has 40 bytes; a body is nonce (12), ciphertext and tag (16)."""

    name: Final = "gcm"

    suite: Final = AES_256_GCM

    mechanisms: Final = (
        Mechanism.AES_KEY_GEN,
        Mechanism.AES_GCM,
        Mechanism.AES_KEY_WRAP_PAD,
        Mechanism.GENERIC_SECRET_KEY_GEN,
        Mechanism.SHA256_HMAC,
    )

    plans: Final[Mapping[str, ObjectPlan]] = {
        MASTER: ObjectPlan(
            KeyType.AES,
            MechanismFlag.WRAP | MechanismFlag.UNWRAP,
            template={Attribute.UNWRAP_TEMPLATE: attributes.UNWRAP_TEMPLATE},
        ),
        SEALING: ObjectPlan(KeyType.AES, _CIPHER, template={}),
        RECORD_MAC: RECORD_MAC_PLAN,
    }

    def rehearse(self, session: pkcs11.Session) -> None:
        """Do nothing: each of the mechanisms is good for one thing only."""

    def generate(self, login: Login) -> bytes:
        """Make an AES-256 key inside the token and return it wrapped."""
        return _wrap_and_destroy(login, generate_in_transit(login.session, KeyType.AES))

    def wrap_material(self, login: Login, material: bytes) -> bytes:
        """Return 32 bytes of given key material wrapped."""
        key = create_in_transit(login.session, KeyType.AES, material)
        return _wrap_and_destroy(login, key)

    def working_copy(self, login: Login, blob: bytes) -> Any:
        """Unwrap a root key into a session object that can only encrypt and decrypt.

        Raises:
            TokenSetupError: the token would make it readable.
        """
        key = _unwrap(login, blob, _CIPHER, attributes.IN_USE)
        try:
            require_unreadable(key)
        except BaseException:
            destroy_object(key)
            raise
        return key

    def destroy(self, working: Any) -> None:
        """Destroy a working copy, or what the token has left of it."""
        destroy_object(working)

    def encrypt(self, login: Login, working: Any, plaintext: bytes, aad: bytes) -> bytes:
        """Return nonce, ciphertext and tag."""
        # NB: SoftHSM accepts an empty nonce and a tag of no bits; both are fixed here.
        nonce = login.session.generate_random(8 * NONCE_BYTES)
        sealed: bytes = working.encrypt(
            plaintext,
            mechanism=Mechanism.AES_GCM,
            mechanism_param=GCMParams(nonce, aad, _TAG_BITS),
        )
        return nonce + sealed

    def decrypt(self, login: Login, working: Any, body: bytes, aad: bytes) -> bytes:
        """Return the plaintext of nonce, ciphertext and tag.

        Raises:
            CiphertextRejectedError: it does not open under this key and AAD.
            TokenUnavailableError: the token decrypts wrongly.
        """
        if len(body) < NONCE_BYTES + TAG_BYTES:
            raise CiphertextRejectedError
        try:
            return _decrypt(working, body, aad)
        except REJECTED_ON_DECRYPT:
            raise CiphertextRejectedError from None
        except pkcs11.GeneralError:
            # SoftHSM answers a wrong tag with the code of a device fault. Whether the
            # device works is found out by asking it something that it must know.
            _require_known_answer(login)
        try:
            # The fault may have been a passing one, and the ciphertext be good.
            return _decrypt(working, body, aad)
        except (*REJECTED_ON_DECRYPT, pkcs11.GeneralError):
            raise CiphertextRejectedError from None

    def seal(self, login: Login, payload: bytes, aad: bytes) -> bytes:
        """Return nonce, ciphertext and tag of ``payload`` under the sealing key."""
        return self.encrypt(login, login.objects[SEALING], payload, aad)

    def unseal(self, login: Login, sealed: bytes, aad: bytes) -> bytes:
        """Return the payload.

        Raises:
            CiphertextRejectedError: it does not open under this AAD.
            TokenUnavailableError: the token decrypts wrongly.
        """
        return self.decrypt(login, login.objects[SEALING], sealed, aad)

    def refuses_readable_unwrap(self, login: Login) -> bool:
        """Try what a thief with PIN and store would try; tell whether the token refuses it."""
        blob = self.generate(login)
        return not hands_out_readable(
            lambda template: _unwrap(login, blob, attributes.NO_CAPABILITIES, template)
        )


def _wrap_and_destroy(login: Login, key: Any) -> bytes:
    try:
        wrapped: bytes = login.objects[MASTER].wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)
    finally:
        key.destroy()
    return wrapped


def _unwrap(
    login: Login, blob: bytes, capabilities: MechanismFlag, template: attributes.Template
) -> Any:
    return login.objects[MASTER].unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        blob,
        mechanism=Mechanism.AES_KEY_WRAP_PAD,
        store=False,
        capabilities=capabilities,
        template=template,
    )


def _decrypt(working: Any, body: bytes, aad: bytes) -> bytes:
    nonce, sealed = body[:NONCE_BYTES], body[NONCE_BYTES:]
    plaintext: bytes = working.decrypt(
        sealed,
        mechanism=Mechanism.AES_GCM,
        mechanism_param=GCMParams(nonce, aad, _TAG_BITS),
    )
    return plaintext


def _require_known_answer(login: Login) -> None:
    """Prove the token object that signs, and the mechanism under a key made for it alone.

    The caller's own key would do too, but each such encryption would have to be counted,
    and anybody can send a ciphertext that does not open.

    Raises:
        TokenUnavailableError: the token decrypts wrongly.
    """
    sign(login, _KNOWN_TEXT)
    key: Any = login.session.generate_key(
        KeyType.AES,
        attributes.KEY_BITS,
        store=False,
        capabilities=_CIPHER,
        template=attributes.IN_USE,
    )
    try:
        parameters = GCMParams(bytes(NONCE_BYTES), b"", _TAG_BITS)
        text = key.encrypt(_KNOWN_TEXT, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        opened = key.decrypt(text, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
    finally:
        key.destroy()
    if opened != _KNOWN_TEXT:
        raise TokenUnavailableError("the token decrypts wrongly")
