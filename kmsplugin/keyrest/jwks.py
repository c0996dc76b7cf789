"""An issuer's public keys: which of a JSON Web Key Set (RFC 7517) may prove anything.

A key is left out when it is for encryption, symmetric, of a kind or size that is
not accepted, or given with its private half, which is then nobody's proof. Each
key is bound to the algorithms that it may be used with before any credential is
seen, so that no credential can choose how it is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwa import JWS_ALGORITHMS, JWSAlgModel
from joserfc.jwk import Key, import_key

from keycore.errors import IssuerUnavailableError, UnauthenticatedError
from keyrest.encodings import read_base64url, read_object
from keyrest.reasons import Refusal

ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""The signature algorithms that are accepted, with type and curve of their keys
(RFC 7518, 3.1; RFC 8037, 3.1; RFC 9864, 2.2, which renames EdDSA to its curve)."""

RSA_BITS = range(2048, 8192 + 1)
"""Shorter moduli are broken or will be (RFC 7518, 3.3); longer ones only cost time."""

_MODELS: Mapping[str, JWSAlgModel] = {
    model.name: model for model in JWS_ALGORITHMS if model.name in ALGORITHMS
}

_PUBLIC_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "RSA": ("n", "e"),
    "EC": ("crv", "x", "y"),
    "OKP": ("crv", "x"),
}
"""What makes a public key of each type; nothing else of a JWK reaches the library."""

_EDWARDS = frozenset({"EdDSA", "Ed25519"})


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key and what it may be used with.

    Attributes:
        key_id: the JWK's ``kid``; ``None`` when it has none.
        algorithms: names in :data:`ALGORITHMS`, at least one.
    """

    key_id: str | None
    algorithms: frozenset[str]
    key: Key = field(repr=False)

    def check(self, algorithm: str, signed: bytes, signature: bytes) -> None:
        """Check a signature; ``algorithm`` must be one of the key's own.

        Raises:
            UnauthenticatedError: it is not by this key over these bytes.
        """
        model = _MODELS[algorithm]
        model.check_key(self.key)
        if not model.verify(signed, signature, self.key):
            raise UnauthenticatedError(Refusal.SIGNATURE)


class VerificationKeys:
    """The usable keys of one issuer at one time."""

    def __init__(
        self, keys: Collection[VerificationKey] = (), ambiguous: Collection[str] = ()
    ) -> None:
        """Hold ``keys``, whose ids differ, and the ids that several keys had."""
        self._keys = tuple(keys)
        self._by_id = {key.key_id: key for key in keys if key.key_id is not None}
        self._ambiguous = frozenset(ambiguous)

    def __len__(self) -> int:
        """Return how many keys can be used."""
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        """Tell whether both know the same keys, for the log."""
        if not isinstance(other, VerificationKeys):
            return NotImplemented
        return self._fingerprint() == other._fingerprint()

    __hash__ = None  # type: ignore[assignment]

    def find(self, key_id: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key that a credential names, or ``None`` when there is none such.

        A credential without ``kid`` is for the one key that fits its algorithm.

        Raises:
            UnauthenticatedError: the key is not for ``algorithm``, or more than one
                could be meant.
        """
        if key_id is None:
            return self._only(algorithm)
        if key_id in self._ambiguous:
            raise UnauthenticatedError(Refusal.AMBIGUOUS_KEY)
        key = self._by_id.get(key_id)
        if key is not None and algorithm not in key.algorithms:
            raise UnauthenticatedError(Refusal.KEY_MISMATCH)
        return key

    def _only(self, algorithm: str) -> VerificationKey | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        if len(fitting) > 1:
            raise UnauthenticatedError(Refusal.AMBIGUOUS_KEY)
        return fitting[0] if fitting else None

    def _fingerprint(self) -> object:
        keys = {(key.key_id, key.algorithms, key.key.thumbprint()) for key in self._keys}
        return keys, self._ambiguous


def read_key_set(document: bytes) -> VerificationKeys:
    """Return the usable keys of a JWK Set (RFC 7517, 5).

    Keys that share an id are left out all: which one a credential means would be a
    guess. A set without a usable key is a set; an issuer may have withdrawn them all.

    Raises:
        IssuerUnavailableError: it is no JWK Set at all.
    """
    members = (read_object(document) or {}).get("keys")
    if not isinstance(members, list):
        raise IssuerUnavailableError("its keys are no JSON Web Key Set")
    candidates = [jwk for jwk in members if _is_for_signatures(jwk)]
    counts = Counter(jwk["kid"] for jwk in candidates if "kid" in jwk)
    ambiguous = {key_id for key_id, count in counts.items() if count > 1}
    imported = (_import(jwk) for jwk in candidates if jwk.get("kid") not in ambiguous)
    return VerificationKeys([key for key in imported if key], ambiguous)


def _is_for_signatures(jwk: Any) -> bool:
    """Tell whether a JWK is a public key that says nothing against checking signatures."""
    if not isinstance(jwk, dict) or not all(
        isinstance(jwk.get(name, ""), str) for name in ("kty", "use", "alg", "kid")
    ):
        return False
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("kty") in _PUBLIC_MEMBERS
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _import(jwk: Mapping[str, Any]) -> VerificationKey | None:
    algorithms = _algorithms_of(jwk)
    if not algorithms or "d" in jwk or not _is_of_good_size(jwk):
        return None
    names = ("kty", *_PUBLIC_MEMBERS[jwk["kty"]])
    public = {name: jwk[name] for name in names if name in jwk}
    try:
        key = import_key(public)
    except (JoseError, ValueError):
        return None
    return VerificationKey(jwk.get("kid"), algorithms, key)


def _algorithms_of(jwk: Mapping[str, Any]) -> frozenset[str]:
    """Return what the key's type and curve allow, narrowed by its own ``alg``."""
    fitting = {
        name
        for name, (key_type, curve) in ALGORITHMS.items()
        if key_type == jwk["kty"] and curve in (None, jwk.get("crv"))
    }
    if "alg" in jwk:
        named = jwk["alg"]
        fitting &= _EDWARDS if named in _EDWARDS else {named}
    return frozenset(fitting)


def _is_of_good_size(jwk: Mapping[str, Any]) -> bool:
    """Tell whether an RSA modulus has an accepted length; curves fix their own."""
    if jwk["kty"] != "RSA":
        return True
    modulus = jwk.get("n")
    if not isinstance(modulus, str):
        return False
    number = read_base64url(modulus.encode("ascii", "replace"))
    return number is not None and int.from_bytes(number).bit_length() in RSA_BITS
