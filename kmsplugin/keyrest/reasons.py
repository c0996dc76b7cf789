"""Why a credential was refused: the words that stand in audit lines."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Values of :attr:`keycore.errors.UnauthenticatedError.reason`; they never change.

    They are for the audit log alone. A caller always sees the same sentence, since
    every word would help to forge the next credential.
    """

    MISSING = "missing"
    """There is no Authorization header."""

    SCHEME = "scheme"
    """The header is of another scheme than Bearer."""

    OVERSIZED = "oversized"
    """The credential is longer than any honest one."""

    MALFORMED = "malformed"
    """It is not one JWT: characters, parts, base64url, UTF-8 or JSON are wrong."""

    ENCRYPTED = "encrypted"
    """It is an encrypted JWT (five parts)."""

    ALGORITHM = "algorithm"
    """It names no signature algorithm that is accepted; ``none`` and HMAC are not."""

    TYPE = "type"
    """Its header says that it is something else than a JWT or an access token."""

    CRITICAL = "critical"
    """Its header demands an extension (``crit``); none is understood."""

    UNKNOWN_ISSUER = "unknown_issuer"
    """No configured issuer has exactly this ``iss``."""

    UNKNOWN_KEY = "unknown_key"
    """The issuer publishes no key of that ``kid``, or none that fits."""

    AMBIGUOUS_KEY = "ambiguous_key"
    """More than one key of the issuer could be meant."""

    KEY_MISMATCH = "key_mismatch"
    """The key of that ``kid`` is not for this algorithm."""

    SIGNATURE = "signature"
    """The signature is not by that key."""

    NO_EXPIRY = "no_expiry"
    """It has no ``exp``."""

    BAD_TIME = "bad_time"
    """``exp``, ``nbf`` or ``iat`` is no sensible number of seconds."""

    EXPIRED = "expired"
    """``exp`` has come."""

    EARLY = "early"
    """``nbf`` or ``iat`` lies in the future."""

    NO_AUDIENCE = "no_audience"
    """It has no ``aud``."""

    OTHER_AUDIENCE = "other_audience"
    """It is meant for somebody else."""

    NO_SUBJECT = "no_subject"
    """It has no ``sub``."""

    BAD_SUBJECT = "bad_subject"
    """``sub`` is no text of 1..255 printable characters."""
