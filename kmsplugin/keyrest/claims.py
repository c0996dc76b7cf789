"""From checked claims to an identity: the rules for a JWT of one issuer (RFC 7519, 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keycore.errors import UnauthenticatedError
from keycore.settings import IssuerSettings
from keyrest.identity import Identity
from keyrest.reasons import Refusal

SUBJECT_CHARACTERS_MAX = 255
"""OpenID Connect Core 1.0, 2, limits ``sub`` to 255 characters."""

TIME_MAX = 253_402_300_799
"""The last second of the year 9999; a later one is no date but an attempt."""


def identity_from(
    claims: Mapping[str, Any], issuer: IssuerSettings, *, now: float, leeway: float
) -> Identity:
    """Return whom the claims name, if they hold now and here.

    Args:
        claims: the payload, whose signature is known to be by ``issuer``.
        issuer: whose credential it is.
        now: POSIX seconds.
        leeway: seconds that the issuer's clock may be ahead. ``exp`` gets none: no
            clock may lengthen a credential's life.

    Raises:
        UnauthenticatedError: they do not hold.
    """
    expires_at = _expiry(claims, now)
    _check_begin(claims, now + leeway)
    _check_audience(claims, issuer.audience)
    return Identity(
        issuer=issuer.name,
        subject=_subject(claims),
        groups=_groups(claims.get(issuer.groups_claim)),
        expires_at=expires_at,
    )


def is_printable_subject(value: Any) -> bool:
    """Tell whether a value can be a subject: a text that a log line can hold as it is."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= SUBJECT_CHARACTERS_MAX
        # Without lone surrogates too, which no UTF-8 file can hold.
        and value.isprintable()
    )


def _expiry(claims: Mapping[str, Any], now: float) -> float:
    if "exp" not in claims:
        raise UnauthenticatedError(Refusal.NO_EXPIRY)
    expires_at = _seconds(claims["exp"])
    if now >= expires_at:
        raise UnauthenticatedError(Refusal.EXPIRED)
    return expires_at


def _check_begin(claims: Mapping[str, Any], latest: float) -> None:
    for name in ("nbf", "iat"):
        if name in claims and _seconds(claims[name]) > latest:
            raise UnauthenticatedError(Refusal.EARLY)


def _seconds(value: Any) -> float:
    """Return a NumericDate. Python counts booleans as numbers, and JSON does not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= TIME_MAX:
        raise UnauthenticatedError(Refusal.BAD_TIME)
    return float(value)


def _check_audience(claims: Mapping[str, Any], audience: str) -> None:
    if "aud" not in claims:
        raise UnauthenticatedError(Refusal.NO_AUDIENCE)
    if audience not in _texts(claims["aud"]):
        raise UnauthenticatedError(Refusal.OTHER_AUDIENCE)


def _subject(claims: Mapping[str, Any]) -> str:
    if "sub" not in claims:
        raise UnauthenticatedError(Refusal.NO_SUBJECT)
    subject = claims["sub"]
    if not isinstance(subject, str) or not is_printable_subject(subject):
        raise UnauthenticatedError(Refusal.BAD_SUBJECT)
    return subject


def _groups(value: Any) -> frozenset[str]:
    return frozenset(_texts(value))


def _texts(value: Any) -> list[str]:
    """Return one text or a list of texts as a list; anything else is none at all."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return []
