"""An issuer in memory: keys, their JWK Set, and credentials as good or as bad as wanted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from keycore.errors import IssuerUnavailableError
from keycore.settings import IssuerSettings
from keyrest.jwks import VerificationKeys, read_key_set
from tests.fakes.fixed_clock import FixedClock

MODELS = {model.name: model for model in JWS_ALGORITHMS}

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""What the REST face accepts, written down a second time."""


@cache
def private_key(algorithm: str, which: int = 0) -> Key:
    """Return a key for an algorithm, the same for the same ``which``."""
    if algorithm.startswith("ES"):
        return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm])
    if algorithm.startswith("Ed"):
        return OKPKey.generate_key("Ed25519")
    return RSAKey.generate_key(2048)


@dataclass(frozen=True)
class SigningKey:
    """A private key with the name that its public half is published under."""

    kid: str | None
    algorithm: str
    which: int = 0

    @property
    def key(self) -> Key:
        return private_key(self.algorithm, self.which)

    def jwk(self, **members: Any) -> dict[str, Any]:
        """Return the public JWK; a member given as ``None`` is left away."""
        named = {} if self.kid is None else {"kid": self.kid}
        jwk = {**self.key.as_dict(private=False), "use": "sig", **named, **members}
        return {name: value for name, value in jwk.items() if value is not None}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_json(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def compact(header: Any, claims: Any, sign: Callable[[bytes], bytes]) -> str:
    """Return a JWS in compact form; bytes are taken for JSON as they are."""
    signed = f"{base64url(as_json(header))}.{base64url(as_json(claims))}"
    return f"{signed}.{base64url(sign(signed.encode()))}"


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class SigningIssuer:
    """Signs for one issuer and publishes its keys; a :class:`keyrest.discovery.KeySource`."""

    def __init__(self, name: str, clock: FixedClock, keys: Sequence[SigningKey] = ()) -> None:
        self.name = name
        self.clock = clock
        self.keys = list(keys) or [SigningKey("k1", "ES256")]
        self.settings = IssuerSettings(
            name=name, url=f"https://{name}.example", audience="keyplane"
        )
        self.fetches = 0
        self.fault = ""
        self.document: bytes | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> VerificationKeys:
        """Answer once the gate is open."""
        self.fetches += 1
        await self.gate.wait()
        if self.fault:
            raise IssuerUnavailableError(self.fault)
        return read_key_set(self.key_set())

    def key_set(self) -> bytes:
        if self.document is not None:
            return self.document
        return json.dumps({"keys": [key.jwk() for key in self.keys]}).encode()

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return good claims; one that is given as ``None`` is left away."""
        now = int(self.clock.now().timestamp())
        good = {
            "iss": self.settings.url,
            "aud": "keyplane",
            "sub": "alice",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
        }
        return without_none({**good, **changed})

    def credential(
        self,
        claims: Any = None,
        *,
        header: Mapping[str, Any] | None = None,
        key: SigningKey | None = None,
    ) -> str:
        """Return a JWT with a good signature over whatever it says."""
        key = key or self.keys[0]
        good = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid}
        payload = self.claims() if claims is None else claims
        return compact(
            without_none({**good, **(header or {})}),
            payload,
            lambda signed: MODELS[key.algorithm].sign(signed, key.key),
        )

    def bearer(self, **changed: Any) -> str:
        """Return the header of a good credential with some claims changed."""
        return f"Bearer {self.credential(self.claims(**changed))}"
