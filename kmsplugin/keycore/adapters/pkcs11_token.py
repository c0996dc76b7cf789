"""The token port on PKCS#11: three token objects, and root keys as short-lived session objects.

Key objects never leave this module. A root key version is unwrapped into a
session object once, used many times through its handle, and destroyed when it is
evicted; python-pkcs11's garbage collection destroys nothing in the token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass

from keycore.adapters import pkcs11_attributes as attributes
from keycore.adapters.pkcs11_errors import REJECTED_ON_DECRYPT, pkcs11_errors
from keycore.adapters.pkcs11_module import Pkcs11Module, serial_of
from keycore.domain.envelope import NONCE_BYTES, TAG_BYTES
from keycore.domain.ids import VersionId
from keycore.domain.keys import ROOT_KEY_BYTES
from keycore.errors import CiphertextRejectedError, TokenSetupError, TokenUnavailableError
from keycore.ports import TokenDescription, WrappedKey

MASTER: Final = "keyplane-master"
SEALING: Final = "keyplane-sealing"
RECORD_MAC: Final = "keyplane-record-mac"

HANDLES_MAX = 1000
"""Root keys held in the token at once, 11 kB each in SoftHSM. Beyond a few thousand
session objects SoftHSM gets slower."""

_KEY_BITS: Final = 8 * ROOT_KEY_BYTES
_TAG_BITS: Final = 8 * TAG_BYTES


@dataclass(frozen=True, slots=True)
class _Objects:
    """The three token objects of an installation."""

    master: Any
    sealing: Any
    record_mac: Any


class Pkcs11Token:
    """One logged-in token. Every method holds the module's guard for its calls."""

    def __init__(
        self,
        module: Pkcs11Module,
        session: pkcs11.Session,
        *,
        handles_max: int = HANDLES_MAX,
    ) -> None:
        """Find the three token objects through ``session`` and prove what they promise.

        Raises:
            TokenSetupError: an object is missing, doubled, or weaker than it must be.
            TokenUnavailableError: the token did not answer.
        """
        self._guard = module.guard
        self._session = session
        self._handles: OrderedDict[VersionId, Any] = OrderedDict()
        self._handles_max = handles_max
        with self._guard, pkcs11_errors("find its objects"):
            self._objects = _Objects(*(_find(session, label) for label in _CAPABILITIES))
        token = session.token
        self._description = TokenDescription(
            label=token.label,
            serial=serial_of(token),
            manufacturer=token.manufacturer_id,
            model=token.model,
            guards_unwrapping=self._refuses_readable_unwrap(),
        )

    # --- root keys -----------------------------------------------------------

    def generate_key(self) -> bytes:
        """Make an AES-256 key inside the token and return it wrapped (40 bytes, RFC 5649).

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("generate a key"):
            key = self._session.generate_key(
                KeyType.AES,
                _KEY_BITS,
                store=False,
                capabilities=attributes.NO_CAPABILITIES,
                template=attributes.IN_TRANSIT,
            )
            return self._wrap_and_destroy(key)

    def import_key(self, material: bytes) -> bytes:
        """Return 32 bytes of given key material wrapped (40 bytes, RFC 5649).

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("import a key"):
            key = self._session.create_object(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.TOKEN: False,
                    Attribute.VALUE: material,
                    **attributes.IN_TRANSIT,
                }
            )
            return self._wrap_and_destroy(key)

    def encrypt(self, key: WrappedKey, plaintext: bytes, aad: bytes) -> bytes:
        """Return nonce (12), ciphertext and tag (16) (AES-256-GCM, NIST SP 800-38D).

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("encrypt"):
            return self._gcm_encrypt(self._handle(key), plaintext, aad)

    def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        """Return the plaintext of what :meth:`encrypt` returned.

        Raises:
            CiphertextRejectedError: it does not open under this key and AAD.
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("decrypt"):
            return self._gcm_decrypt(self._handle(key), body, aad)

    def forget(self, version_ids: Iterable[VersionId]) -> None:
        """Destroy the working copies of these versions.

        A copy that the token has lost already is forgotten all the same.
        """
        for version_id in version_ids:
            with self._guard:
                self._destroy(self._handles.pop(version_id, None))

    # --- sealing -------------------------------------------------------------

    def random_bytes(self, count: int) -> bytes:
        """Return ``count`` bytes from ``C_GenerateRandom``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("generate random bytes"):
            return self._session.generate_random(8 * count)

    def seal(self, payload: bytes, aad: bytes) -> bytes:
        """Return nonce, ciphertext and tag of ``payload`` under the sealing key.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("seal a payload"):
            return self._gcm_encrypt(self._objects.sealing, payload, aad)

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the payload that :meth:`seal` encrypted under the same ``aad``.

        Raises:
            CiphertextRejectedError: it does not open.
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("unseal a payload"):
            return self._gcm_decrypt(self._objects.sealing, sealed, aad)

    # --- record MACs ---------------------------------------------------------

    def sign(self, data: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA-256 of ``data``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("sign a record"):
            mac: bytes = self._objects.record_mac.sign(data, mechanism=Mechanism.SHA256_HMAC)
            return mac

    def is_signed(self, data: bytes, mac: bytes) -> bool:
        """Tell whether ``mac`` is the HMAC of ``data``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        with self._guard, pkcs11_errors("verify a record"):
            verified: bool = self._objects.record_mac.verify(
                data, mac, mechanism=Mechanism.SHA256_HMAC
            )
            return verified

    # --- the token itself ----------------------------------------------------

    def check(self) -> None:
        """Prove that the token is there, by a call on a token object.

        Session keys go on working after a token was removed, so they prove nothing.

        Raises:
            TokenUnavailableError: it is not.
        """
        self.sign(b"keyplane/check/1")

    def describe(self) -> TokenDescription:
        """Return what the token is; no call to the module."""
        return self._description

    def close(self) -> None:
        """Destroy all working copies and log out; the object is not used afterwards."""
        self.forget(list(self._handles))
        with self._guard, pkcs11_errors("log out"):
            self._session.close()

    # --- inside the guard ----------------------------------------------------

    def _wrap_and_destroy(self, key: Any) -> bytes:
        try:
            wrapped: bytes = self._objects.master.wrap_key(
                key, mechanism=Mechanism.AES_KEY_WRAP_PAD
            )
        finally:
            key.destroy()
        return wrapped

    def _handle(self, key: WrappedKey) -> Any:
        handle = self._handles.get(key.version_id)
        if handle is None:
            handle = self._unwrapped(key.blob)
            self._handles[key.version_id] = handle
            while len(self._handles) > self._handles_max:
                _, evicted = self._handles.popitem(last=False)
                self._destroy(evicted)
        else:
            self._handles.move_to_end(key.version_id)
        return handle

    def _unwrapped(self, blob: bytes) -> Any:
        handle = self._unwrap(
            blob, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT, attributes.IN_USE
        )
        # Some modules ignore these two at unwrap and say nothing, so they are read back.
        read = handle.get_attributes([Attribute.SENSITIVE, Attribute.EXTRACTABLE])
        if not read[Attribute.SENSITIVE] or read[Attribute.EXTRACTABLE]:
            handle.destroy()
            raise TokenSetupError(
                "the token makes unwrapped keys readable",
                hint="this token cannot protect root keys; use another one",
            )
        return handle

    def _unwrap(
        self, blob: bytes, capabilities: MechanismFlag, template: attributes.Template
    ) -> Any:
        return self._objects.master.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.AES,
            blob,
            mechanism=Mechanism.AES_KEY_WRAP_PAD,
            store=False,
            capabilities=capabilities,
            template=template,
        )

    def _gcm_encrypt(self, key: Any, plaintext: bytes, aad: bytes) -> bytes:
        # NB: SoftHSM accepts an empty nonce and a tag of no bits; both are fixed here.
        nonce = self._session.generate_random(8 * NONCE_BYTES)
        sealed: bytes = key.encrypt(
            plaintext,
            mechanism=Mechanism.AES_GCM,
            mechanism_param=GCMParams(nonce, aad, _TAG_BITS),
        )
        return nonce + sealed

    def _gcm_decrypt(self, key: Any, body: bytes, aad: bytes) -> bytes:
        if len(body) < NONCE_BYTES + TAG_BYTES:
            raise CiphertextRejectedError
        nonce, sealed = body[:NONCE_BYTES], body[NONCE_BYTES:]
        try:
            plaintext: bytes = key.decrypt(
                sealed,
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(nonce, aad, _TAG_BITS),
            )
        except REJECTED_ON_DECRYPT:
            raise CiphertextRejectedError from None
        except pkcs11.GeneralError:
            # SoftHSM answers a wrong tag with the code of a device fault. Whether
            # the device works is found out by asking it something it must know.
            self._known_answer(key)
            raise CiphertextRejectedError from None
        return plaintext

    def _known_answer(self, key: Any) -> None:
        self.check()
        nonce = self._session.generate_random(8 * NONCE_BYTES)
        parameters = GCMParams(nonce, b"", _TAG_BITS)
        sealed = key.encrypt(_KNOWN_TEXT, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        opened = key.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        if opened != _KNOWN_TEXT:
            raise TokenUnavailableError("the token decrypts wrongly")

    def _destroy(self, handle: Any) -> None:
        if handle is None:
            return
        try:
            handle.destroy()
        except pkcs11.PKCS11Error:
            # The token has lost the object or is gone; either way it is not usable.
            return

    def _refuses_readable_unwrap(self) -> bool:
        """Try what a thief with PIN and store would try; the token should refuse."""
        blob = self.generate_key()
        readable = {**attributes.IN_TRANSIT, Attribute.SENSITIVE: False}
        with self._guard:
            try:
                stolen = self._unwrap(blob, attributes.NO_CAPABILITIES, readable)
            except pkcs11.PKCS11Error:
                return True
            self._destroy(stolen)
            return False


_KNOWN_TEXT: Final = b"keyplane/known-answer/1"

_CAPABILITIES: Final = {
    MASTER: MechanismFlag.WRAP | MechanismFlag.UNWRAP,
    SEALING: MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
    RECORD_MAC: MechanismFlag.SIGN | MechanismFlag.VERIFY,
}
"""What each token object may do, in the order of ``_Objects``."""


def provision(module: Pkcs11Module, session: pkcs11.Session) -> None:
    """Make the token objects that are missing; existing ones are kept and checked.

    Each object is made by one call, so an interrupted run leaves whole objects
    only, and the next run goes on where it stopped.

    Args:
        module: for its guard.
        session: a writable session, logged in.

    Raises:
        TokenSetupError: an object of that label is weaker than it must be.
        TokenUnavailableError: the token did not answer.
    """
    for label, capabilities in _CAPABILITIES.items():
        with module.guard, pkcs11_errors(f"make the object {label}"):
            if not _labelled(session, label):
                _make(session, label, capabilities)
        with module.guard, pkcs11_errors(f"check the object {label}"):
            _find(session, label)


def _make(session: pkcs11.Session, label: str, capabilities: MechanismFlag) -> None:
    template: attributes.Template = {}
    if label == MASTER:
        template[Attribute.UNWRAP_TEMPLATE] = attributes.UNWRAP_TEMPLATE
    template.update(attributes.LOCKED)
    session.generate_key(
        KeyType.GENERIC_SECRET if label == RECORD_MAC else KeyType.AES,
        _KEY_BITS,
        label=label,
        store=True,
        capabilities=capabilities,
        template=template,
    )


def _labelled(session: pkcs11.Session, label: str) -> list[Any]:
    return list(
        session.get_objects(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.TOKEN: True,
                Attribute.LABEL: label,
            }
        )
    )


def _find(session: pkcs11.Session, label: str) -> Any:
    found = _labelled(session, label)
    if len(found) != 1:
        raise TokenSetupError(
            f"the token {session.token.label!r} holds {len(found)} objects {label}, expected one",
            hint="is it the token of this installation? If it is new, run keyplane init",
        )
    key = found[0]
    locks = [name for name in attributes.LOCKED if name is not Attribute.COPYABLE]
    read = key.get_attributes(locks)
    if read != {name: attributes.LOCKED[name] for name in locks}:
        raise TokenSetupError(
            f"the object {label} is weaker than keyplane makes it",
            hint="it was not made by keyplane init; use another token",
        )
    return key
