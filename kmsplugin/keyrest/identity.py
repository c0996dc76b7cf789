"""Who a caller of the REST face is, once a bearer token has proven it."""

from __future__ import annotations

from dataclasses import dataclass

SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
"""How Kubernetes begins the subject of a service account; ``namespace:name`` follows."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One caller, as its issuer describes it.

    Attributes:
        issuer: the issuer's name in the settings, not its URL.
        subject: the ``sub`` claim: 1..255 printable characters, unique within the issuer.
        groups: the groups that the issuer says the caller is in; may be empty.
        expires_at: POSIX seconds of the ``exp`` claim, from which on the credential
            proves nothing.
    """

    issuer: str
    subject: str
    groups: frozenset[str]
    expires_at: float

    @property
    def actor(self) -> str:
        """The caller in audit lines, ``issuer:subject``.

        An issuer's name holds no colon, so the first one ends it.
        """
        return f"{self.issuer}:{self.subject}"
