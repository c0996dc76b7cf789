"""What differs between kinds of tokens: which objects and mechanisms root keys are made of.

A profile holds no state. Its methods run inside a lane of :mod:`pkcs11_lanes`, so nobody
else uses the same session meanwhile, and they let python-pkcs11's errors pass, which the
token maps and heals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Protocol

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from keycore.adapters import pkcs11_attributes as attributes
from keycore.domain.envelope import Suite
from keycore.errors import TokenSetupError

MASTER = "keyplane-master"
SEALING = "keyplane-sealing"
RECORD_MAC = "keyplane-record-mac"


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """How one token object is made; ``template`` comes before what locks every object.

    Attributes:
        may_be_copyable: a token that does not know CKA_COPYABLE will do, although the
            PIN holder can then copy the object with other rights.
    """

    key_type: KeyType
    capabilities: MechanismFlag
    template: attributes.Template
    may_be_copyable: bool = False


@dataclass(frozen=True, slots=True)
class Login:
    """A session of the logged-in token, with the token objects as that session sees them.

    Attributes:
        objects: key objects by label, all that the profile plans.
        number: of the login that the session was opened under.
    """

    session: pkcs11.Session
    objects: Mapping[str, Any]
    number: int = 0


class Profile(Protocol):
    """Cryptography on one kind of token."""

    @property
    def name(self) -> str:
        """Its name in the settings: ``gcm`` or ``cbc-hmac``."""

    @property
    def suite(self) -> Suite:
        """What its ciphertexts are made of."""

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """What the token must offer."""

    @property
    def plans(self) -> Mapping[str, ObjectPlan]:
        """The token objects of an installation, by label."""

    def rehearse(self, session: pkcs11.Session) -> None:
        """Find out, before ``init`` makes anything, what the list of mechanisms leaves open.

        Raises:
            TokenSetupError: the token would make root keys readable.
            TokenUnavailableError: the token decrypts wrongly.
        """

    def generate(self, login: Login) -> bytes:
        """Make a root key inside the token and return it wrapped."""

    def wrap_material(self, login: Login, material: bytes) -> bytes:
        """Return 32 bytes of given key material wrapped."""

    def working_copy(self, login: Login, blob: bytes) -> Any:
        """Unwrap a root key into session objects that can only encrypt and decrypt.

        Raises:
            IntegrityError: the token did not make ``blob``, as far as the profile can tell.
            TokenSetupError: the token would make them readable.
        """

    def destroy(self, working: Any) -> None:
        """Destroy a working copy, or what the token has left of it."""

    def encrypt(self, login: Login, working: Any, plaintext: bytes, aad: bytes) -> bytes:
        """Return the body of a ciphertext."""

    def decrypt(self, login: Login, working: Any, body: bytes, aad: bytes) -> bytes:
        """Return the plaintext of a body.

        Raises:
            CiphertextRejectedError: it does not open under this key and AAD.
        """

    def seal(self, login: Login, payload: bytes, aad: bytes) -> bytes:
        """Return ``payload`` encrypted by the sealing key."""

    def unseal(self, login: Login, sealed: bytes, aad: bytes) -> bytes:
        """Return the payload.

        Raises:
            CiphertextRejectedError: it does not open under this AAD.
        """

    def refuses_readable_unwrap(self, login: Login) -> bool:
        """Try what a thief with PIN and store would try; tell whether the token refuses it."""


RECORD_MAC_PLAN = ObjectPlan(
    KeyType.GENERIC_SECRET, MechanismFlag.SIGN | MechanismFlag.VERIFY, template={}
)
"""The key of record MACs is the same in every profile."""


def sign(login: Login, data: bytes) -> bytes:
    """Return the HMAC-SHA-256 of ``data`` by the record MAC key (32 bytes)."""
    mac: bytes = login.objects[RECORD_MAC].sign(data, mechanism=Mechanism.SHA256_HMAC)
    return mac


def is_signed(login: Login, data: bytes, mac: bytes) -> bool:
    """Tell whether ``mac`` is the HMAC-SHA-256 of ``data`` by the record MAC key."""
    # Not by C_Verify, for which no module promises to take the same time for every guess.
    return compare_digest(sign(login, data), mac)


def make_object(session: pkcs11.Session, label: str, plan: ObjectPlan) -> None:
    """Make one token object by one call, so that an interrupted run leaves no half of it.

    Args:
        session: a writable session, logged in.
        label: which object.
        plan: how it is made.
    """
    _generate(session, label, plan, store=True)


def generate_in_transit(session: pkcs11.Session, key_type: KeyType) -> Any:
    """Make a session key of 32 bytes that can be wrapped and do nothing else."""
    return session.generate_key(
        key_type,
        attributes.KEY_BITS,
        store=False,
        capabilities=attributes.NO_CAPABILITIES,
        template=attributes.IN_TRANSIT,
    )


def create_in_transit(session: pkcs11.Session, key_type: KeyType, value: bytes) -> Any:
    """Make the same of given key material."""
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: False,
            Attribute.VALUE: value,
            **attributes.IN_TRANSIT,
        }
    )


@contextmanager
def rehearsed(session: pkcs11.Session, profile: Profile) -> Iterator[Login]:
    """Give the block a login with session objects in the place of the token objects."""
    objects: dict[str, Any] = {}
    try:
        for label, plan in profile.plans.items():
            objects[label] = _generate(session, label, plan, store=False)
        yield Login(session, objects)
    finally:
        for made in objects.values():
            destroy_object(made)


def find_objects(session: pkcs11.Session, profile: Profile) -> Login:
    """Return ``session`` with the token objects.

    Raises:
        TokenSetupError: an object is missing, doubled, or weaker than it must be.
    """
    return Login(session, {label: _find(session, label) for label in profile.plans})


def labelled(session: pkcs11.Session, label: str) -> list[Any]:
    """Return the secret keys in the token that have a label."""
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.TOKEN: True,
        Attribute.LABEL: label,
    }
    return list(session.get_objects(template))


def require_unreadable(key: Any) -> None:
    """Read back what keeps an unwrapped key inside; some modules pass over it in silence.

    Raises:
        TokenSetupError: the key can be read.
    """
    if is_readable(key):
        raise TokenSetupError(
            "the token makes unwrapped keys readable",
            hint="this token cannot protect root keys; use another one",
        )


def is_readable(key: Any) -> bool:
    """Tell whether the value of a key can be read, or wrapped for somebody else."""
    read = key.get_attributes([Attribute.SENSITIVE, Attribute.EXTRACTABLE])
    return not read[Attribute.SENSITIVE] or bool(read[Attribute.EXTRACTABLE])


def hands_out_readable(unwrap: Callable[[attributes.Template], Any]) -> bool:
    """Tell whether a stored key can be had readable from the token, in one way or another.

    A token that refuses to be asked for it may still do it when it is not asked.

    Args:
        unwrap: unwraps a stored key by a template.
    """
    for template in attributes.THIEF:
        try:
            stolen = unwrap(template)
        except pkcs11.PKCS11Error:
            continue
        try:
            if is_readable(stolen):
                return True
        finally:
            destroy_object(stolen)
    return False


def destroy_object(key: Any) -> None:
    """Destroy an object that the token may have lost already."""
    with suppress(pkcs11.PKCS11Error):
        key.destroy()


def _generate(session: pkcs11.Session, label: str, plan: ObjectPlan, *, store: bool) -> Any:
    locked = {**plan.template, **attributes.LOCKED}
    try:
        return _generate_from(session, label, plan, locked, store=store)
    except pkcs11.AttributeTypeInvalid:
        if not plan.may_be_copyable:
            raise
    del locked[Attribute.COPYABLE]
    return _generate_from(session, label, plan, locked, store=store)


def _generate_from(
    session: pkcs11.Session,
    label: str,
    plan: ObjectPlan,
    template: attributes.Template,
    *,
    store: bool,
) -> Any:
    return session.generate_key(
        plan.key_type,
        attributes.KEY_BITS,
        label=label,
        store=store,
        capabilities=plan.capabilities,
        template=template,
    )


def _find(session: pkcs11.Session, label: str) -> Any:
    found = labelled(session, label)
    if len(found) != 1:
        raise TokenSetupError(
            f"the token {session.token.label!r} holds {len(found)} objects {label}, expected one",
            hint="is it the token of this installation? If it is new, run keyplane init",
        )
    locks = [name for name in attributes.LOCKED if name is not Attribute.COPYABLE]
    if found[0].get_attributes(locks) != {name: attributes.LOCKED[name] for name in locks}:
        raise TokenSetupError(
            f"the object {label} is weaker than keyplane makes it",
            hint="it was not made by keyplane init; use another token",
        )
    return found[0]
