"""Answers questions about a token, as a process that may hang or crash without harm.

``keyplane doctor`` starts it and asks (:mod:`keycore.diagnosis.token_process`). It makes
session objects only, so it leaves nothing behind in the token. It tells facts; whether
they are good is decided by the one that asks.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pkcs11
from cryptography.hazmat.primitives import hashes, hmac, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass, TokenFlag

from keycore.adapters.pin_file import PinFile
from keycore.adapters.pkcs11_attributes import IN_USE, LOCKED
from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_errors import pkcs11_errors
from keycore.adapters.pkcs11_module import Pkcs11Module, serial_of
from keycore.adapters.pkcs11_profile import Login, ObjectPlan, Profile, is_signed, labelled
from keycore.adapters.pkcs11_profiles import profile_for, profile_in, profile_of
from keycore.adapters.softhsm import use_copied_configuration
from keycore.domain.envelope import IV_BYTES, NONCE_BYTES, TAG_BYTES
from keycore.errors import CiphertextRejectedError, KeyplaneError

Facts = dict[str, Any]
"""One answer, as JSON."""

_TEXT: Final = b"keyplane/known-answer/1: 47 bytes of a known text"

_AAD: Final = b"keyplane/known-answer/aad"

_RANDOM_BYTES: Final = 32

_CAPABILITIES: Final[Mapping[Attribute, MechanismFlag]] = {
    Attribute.ENCRYPT: MechanismFlag.ENCRYPT,
    Attribute.DECRYPT: MechanismFlag.DECRYPT,
    Attribute.WRAP: MechanismFlag.WRAP,
    Attribute.UNWRAP: MechanismFlag.UNWRAP,
    Attribute.SIGN: MechanismFlag.SIGN,
    Attribute.VERIFY: MechanismFlag.VERIFY,
}


class TokenExaminer:
    """One question, one method. Those below another need what that one has found."""

    def __init__(self, place: Mapping[str, str | None]) -> None:
        """Examine the token that ``place`` describes; nothing is loaded yet."""
        self._place = place

    def module(self) -> Facts:
        """Load the module."""
        self._module = Pkcs11Module(Path(self._place["module"] or ""))
        with self._module.guard, pkcs11_errors("tell about its module"):
            library = self._module.library
            return {
                "manufacturer": library.manufacturer_id,
                "description": library.library_description,
                "version": _dotted(library.library_version),
                "cryptoki": _dotted(library.cryptoki_version),
            }

    def token(self) -> Facts:
        """Find the token by label and serial number, without a login."""
        self._token = self._module.token(self._place["label"] or "", self._place["serial"])
        return {
            "label": self._token.label,
            "serial": serial_of(self._token),
            "manufacturer": self._token.manufacturer_id,
            "model": self._token.model,
            "firmware": _dotted(self._token.firmware_version),
            "flags": [flag.name for flag in TokenFlag if flag in self._token.flags],
        }

    def login(self) -> Facts:
        """Log in once; a refusal is remembered, as everywhere."""
        place = TokenPlace(self._token.label, serial_of(self._token))
        file = PinFile(Path(self._place["pin_file"] or ""), Path(self._place["marker"] or ""))
        self._connection = Connection(self._module, place, file)
        return {}

    def mechanisms(self) -> Facts:
        """Find out the profile, and whether the token offers all that it needs."""
        wanted = self._place["profile"] or ""
        with self._module.guard, pkcs11_errors("list its mechanisms and objects"):
            offered = set(self._token.slot.get_mechanisms())
            profile = profile_for(offered, wanted, profile_in(self._connection.anchor))
        return {"profile": profile.name, "needed": len(profile.mechanisms), "all": len(offered)}

    def objects(self) -> Facts:
        """Read the attributes of the objects that ``init`` has made."""
        found = {}
        with self._module.guard, pkcs11_errors("find its objects"):
            session = self._connection.anchor
            for label, plan in profile_of(session, self._place["profile"] or "").plans.items():
                keys = labelled(session, label)
                attributes = _attributes(keys[0], plan) if len(keys) == 1 else {}
                found[label] = {"count": len(keys), "attributes": attributes}
        return {"objects": found}

    def open(self) -> Facts:
        """Open the objects as a process does at its start."""
        self._connection.identify(self._place["profile"] or "")
        self._opened: Login | None = self._connection.new_login()
        return {"profile": self._profile.name}

    def guarantee(self) -> Facts:
        """Try what a thief with PIN and store would try."""
        with self._module.guard, pkcs11_errors("be tried out"):
            return {"guards": self._profile.refuses_readable_unwrap(self._login)}

    def round_trip(self) -> Facts:
        """Make a root key, use it, and throw it away; seal and unseal."""
        profile, login = self._profile, self._login
        with self._module.guard, pkcs11_errors("use a key of its own"):
            copy = profile.working_copy(login, profile.generate(login))
            try:
                body = profile.encrypt(login, copy, _TEXT, _AAD)
                opened = profile.decrypt(login, copy, body, _AAD) == _TEXT
                refused = _refuses(lambda: profile.decrypt(login, copy, _flipped(body), _AAD))
            finally:
                profile.destroy(copy)
            sealed = profile.seal(login, _TEXT, _AAD)
            unsealed = profile.unseal(login, sealed, _AAD) == _TEXT
        return {"root_key": opened, "forgery_refused": refused, "sealing_key": unsealed}

    def known_answers(self) -> Facts:
        """Compare the token's cryptography with another implementation, under known keys."""
        cipher = _gcm if Mechanism.AES_GCM in self._profile.mechanisms else _cbc
        with self._module.guard, pkcs11_errors("use a known key"):
            return {
                "cipher": cipher.__name__.lstrip("_"),
                "encryption": cipher(self._login.session),
                "hmac": _hmac(self._login.session),
            }

    def random(self) -> Facts:
        """Ask for random bytes twice."""
        with self._module.guard, pkcs11_errors("generate random bytes"):
            session = self._login.session
            first, second = (session.generate_random(8 * _RANDOM_BYTES) for _ in range(2))
        return {
            "lengths": [len(first), len(second)],
            "repeated": first == second,
            # 32 random bytes with fewer than 16 distinct ones come once in 10^12 times.
            "distinct": min(len(set(first)), len(set(second))),
        }

    def verify(self, data: str, mac: str) -> Facts:
        """Tell whether ``mac`` is the record MAC of ``data``, both hexadecimal."""
        with self._module.guard, pkcs11_errors("verify a record"):
            return {"verified": is_signed(self._login, bytes.fromhex(data), bytes.fromhex(mac))}

    def begin_anew(self) -> None:
        """Use no session any more in which a call has failed; an operation may be left in it."""
        self._opened = None

    def close(self) -> None:
        """Log out, if anybody has logged in."""
        if hasattr(self, "_connection"):
            self._connection.close()

    @property
    def _login(self) -> Login:
        if self._opened is None:
            self._opened = self._connection.new_login()
        return self._opened

    @property
    def _profile(self) -> Profile:
        return self._connection.profile


QUESTIONS: Final[Mapping[str, Callable[..., Facts]]] = {
    method.__name__: method
    for method in (
        TokenExaminer.module,
        TokenExaminer.token,
        TokenExaminer.login,
        TokenExaminer.mechanisms,
        TokenExaminer.objects,
        TokenExaminer.open,
        TokenExaminer.guarantee,
        TokenExaminer.round_trip,
        TokenExaminer.known_answers,
        TokenExaminer.random,
        TokenExaminer.verify,
    )
}
"""Everything that can be asked, in the order in which it makes sense."""


def main() -> None:
    """Answer until standard input ends."""
    place = json.loads(sys.argv[1])
    # A module that prints must not be taken for us.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if place["embedded_in"]:
        use_copied_configuration(Path(place["embedded_in"]), Path(place["scratch"]))
    with closing(TokenExaminer(place)) as examiner:
        for line in sys.stdin:
            answers.write(json.dumps(_answer(examiner, json.loads(line))) + "\n")
            answers.flush()


def _answer(examiner: TokenExaminer, request: Facts) -> Facts:
    question = QUESTIONS[request.pop("question")]
    try:
        return {"answer": question(examiner, **request)}
    except KeyplaneError as error:
        examiner.begin_anew()
        return {"error": error.code, "message": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - the one that asks goes on with other checks.
        return {
            "error": "internal",
            "message": f"keyplane met a fault of its own ({type(error).__name__})",
            "hint": "report it, together with the module and its version",
        }


def _attributes(key: Any, plan: ObjectPlan) -> Facts:
    """Return each attribute as it is and as it should be; ``None`` where it cannot be read."""
    wanted: dict[Attribute, bool] = dict(LOCKED)
    if plan.may_be_copyable:
        del wanted[Attribute.COPYABLE]
    for attribute, capability in _CAPABILITIES.items():
        wanted[attribute] = bool(plan.capabilities & capability)
    return {
        attribute.name: {"is": _read(key, attribute), "should": should}
        for attribute, should in wanted.items()
    }


def _read(key: Any, attribute: Attribute) -> bool | None:
    try:
        return bool(key[attribute])
    except pkcs11.PKCS11Error:
        # Not every module knows every attribute.
        return None


def _gcm(session: pkcs11.Session) -> bool:
    """Tell whether AES-256-GCM gives the same bytes, and opens only what is right."""
    value, nonce = _known(32), _known(NONCE_BYTES)
    expected = AESGCM(value).encrypt(nonce, _TEXT, _AAD)
    key = _import(session, KeyType.AES, value, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT)
    try:
        mechanism = {
            "mechanism": Mechanism.AES_GCM,
            "mechanism_param": GCMParams(nonce, _AAD, 8 * TAG_BYTES),
        }
        encrypted, opened = key.encrypt(_TEXT, **mechanism), key.decrypt(expected, **mechanism)
        return bool(encrypted == expected and opened == _TEXT)
    finally:
        key.destroy()


def _cbc(session: pkcs11.Session) -> bool:
    """Tell whether AES-256-CBC with padding gives the same bytes, both ways."""
    value, iv = _known(32), _known(IV_BYTES)
    padder = padding.PKCS7(algorithms.AES.block_size).padder()
    encryptor = Cipher(algorithms.AES(value), modes.CBC(iv)).encryptor()
    expected = encryptor.update(padder.update(_TEXT) + padder.finalize()) + encryptor.finalize()
    key = _import(session, KeyType.AES, value, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT)
    try:
        mechanism = {"mechanism": Mechanism.AES_CBC_PAD, "mechanism_param": iv}
        encrypted, opened = key.encrypt(_TEXT, **mechanism), key.decrypt(expected, **mechanism)
        return bool(encrypted == expected and opened == _TEXT)
    finally:
        key.destroy()


def _hmac(session: pkcs11.Session) -> bool:
    """Tell whether HMAC-SHA-256 gives the same bytes."""
    value = _known(32)
    ours = hmac.HMAC(value, hashes.SHA256())
    ours.update(_TEXT)
    key = _import(session, KeyType.GENERIC_SECRET, value, MechanismFlag.SIGN | MechanismFlag.VERIFY)
    try:
        same: bool = key.sign(_TEXT, mechanism=Mechanism.SHA256_HMAC) == ours.finalize()
        return same
    finally:
        key.destroy()


def _import(
    session: pkcs11.Session, key_type: KeyType, value: bytes, capabilities: MechanismFlag
) -> Any:
    """Make a session object of a value that is no secret."""
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: False,
            Attribute.VALUE: value,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: IN_USE[Attribute.SENSITIVE],
            Attribute.EXTRACTABLE: IN_USE[Attribute.EXTRACTABLE],
            **{
                attribute: bool(capabilities & capability)
                for attribute, capability in _CAPABILITIES.items()
            },
        }
    )


def _known(size: int) -> bytes:
    return bytes(range(1, size + 1))


def _flipped(body: bytes) -> bytes:
    return body[:-1] + bytes((body[-1] ^ 1,))


def _refuses(decrypt: Callable[[], bytes]) -> bool:
    try:
        decrypt()
    except CiphertextRejectedError:
        return True
    return False


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    main()
