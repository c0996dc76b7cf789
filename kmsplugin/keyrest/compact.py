"""Reads a bearer token (RFC 6750) that is a JWT in compact form (RFC 7515, 7.1; RFC 7519).

Nothing here is believed yet: it is taken apart, strictly, so that the signature is
checked over exactly the text that the claims were read from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keycore.errors import UnauthenticatedError
from keyrest.encodings import read_base64url, read_object
from keyrest.jwks import ALGORITHMS
from keyrest.reasons import Refusal

CREDENTIAL_CHARACTERS_MAX = 16 * 1024
"""Longer ones are refused unread; issuers stay far below, because header lines of
common servers end at 8 KiB."""

HEADER_CHARACTERS_MAX = len("Bearer ") + CREDENTIAL_CHARACTERS_MAX
"""For the header that holds it; longer ones are not even hashed."""

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE | re.ASCII)
"""RFC 6750, 2.1, with the scheme in any case (RFC 9110, 11.1). A comma, which joins
header lines, fits nowhere."""

_SIGNED_PARTS = 3
_ENCRYPTED_PARTS = 5

_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""``typ`` in lower case; media types are compared so (RFC 7515, 4.1.9; RFC 9068, 2.1)."""


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """A JWT that has been taken apart and not been checked.

    Attributes:
        algorithm: a name in :data:`keyrest.jwks.ALGORITHMS`.
        key_id: the header's ``kid``; ``None`` when it has none.
        claims: what the payload says, whoever wrote it.
        signed: the bytes under the signature.
        signature: as many bytes as there are.
    """

    algorithm: str
    key_id: str | None
    claims: Mapping[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def bearer_credential(authorization: str) -> str:
    """Return the credential in the value of one Authorization header.

    Raises:
        UnauthenticatedError: another scheme, or characters that no credential has.
    """
    scheme, _, _ = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthenticatedError(Refusal.SCHEME)
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise UnauthenticatedError(Refusal.MALFORMED)
    return match[1]


def read_compact(credential: str) -> SignedClaims:
    """Take a JWT apart.

    Keys and addresses of keys in the header (``jwk``, ``jku``, ``x5c``, ``x5u``) are
    not looked at: whoever forged a credential would have chosen them.

    Raises:
        UnauthenticatedError: it is no JWT, encrypted, of an algorithm or type that is
            not accepted, or it demands an extension.
    """
    parts = credential.encode("ascii").split(b".")
    if len(parts) == _ENCRYPTED_PARTS:
        raise UnauthenticatedError(Refusal.ENCRYPTED)
    if len(parts) != _SIGNED_PARTS:
        raise UnauthenticatedError(Refusal.MALFORMED)
    header = _object_of(parts[0])
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise UnauthenticatedError(Refusal.ALGORITHM)
    _check_header(header)
    return SignedClaims(
        algorithm=algorithm,
        key_id=header.get("kid"),
        claims=_object_of(parts[1]),
        signed=b".".join(parts[:2]),
        signature=_decoded(parts[2]),
    )


def _check_header(header: Mapping[str, Any]) -> None:
    if "crit" in header:
        raise UnauthenticatedError(Refusal.CRITICAL)
    if "typ" in header:
        type_name = header["typ"]
        if not isinstance(type_name, str) or type_name.lower() not in _TYPES:
            raise UnauthenticatedError(Refusal.TYPE)
    if "kid" in header and not isinstance(header["kid"], str):
        raise UnauthenticatedError(Refusal.MALFORMED)


def _object_of(part: bytes) -> dict[str, Any]:
    value = read_object(_decoded(part))
    if value is None:
        raise UnauthenticatedError(Refusal.MALFORMED)
    return value


def _decoded(part: bytes) -> bytes:
    value = read_base64url(part)
    if value is None:
        raise UnauthenticatedError(Refusal.MALFORMED)
    return value
