"""Turns the Authorization header of a request into the identity of its caller."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from keycore.errors import UnauthenticatedError
from keycore.ports import Clock
from keycore.settings import IssuerSettings
from keyrest.claims import identity_from
from keyrest.compact import HEADER_CHARACTERS_MAX, bearer_credential, read_compact
from keyrest.discovery import HttpsKeySource, KeySource
from keyrest.identity import Identity
from keyrest.issuers import PACE, Issuer, Pace
from keyrest.reasons import Refusal

VERIFIED_SECONDS_MAX = 60.0
"""How long a checked credential is believed without another look at its issuer's keys."""

VERIFIED_COUNT_MAX = 10_000
"""Credentials that are remembered; about 1 KB each."""

START_SECONDS_MAX = 3.0
"""How long the start waits for issuers, so that the first callers need not be refused."""


@dataclass(frozen=True, slots=True)
class _Verified:
    identity: Identity
    believed_until: float


class VerifiedCredentials:
    """Remembers who showed which credential, by its hash, for a short while."""

    def __init__(self, clock: Clock, *, count_max: int = VERIFIED_COUNT_MAX) -> None:
        """Forget the oldest beyond ``count_max``."""
        self._clock = clock
        self._count_max = count_max
        self._by_hash: OrderedDict[bytes, _Verified] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._by_hash)

    def get(self, digest: bytes) -> Identity | None:
        """Return whom a credential is known to name; ``None`` when it must be checked.

        Both clocks count: the wall clock for ``exp``, which is a date, and the other
        one for the age, so that a wall clock that is set back prolongs nothing.
        """
        verified = self._by_hash.get(digest)
        if verified is None:
            return None
        is_expired = self._clock.now().timestamp() >= verified.identity.expires_at
        if is_expired or self._clock.monotonic() >= verified.believed_until:
            del self._by_hash[digest]
            return None
        return verified.identity

    def put(self, digest: bytes, identity: Identity) -> None:
        """Remember a credential that has just been checked."""
        believed_until = self._clock.monotonic() + VERIFIED_SECONDS_MAX
        self._by_hash[digest] = _Verified(identity, believed_until)
        if len(self._by_hash) > self._count_max:
            self._by_hash.popitem(last=False)


class Authenticator:
    """Knows the issuers and checks credentials; belongs to one event loop.

    While it is entered it keeps the issuers' keys fresh. An issuer that does not
    answer stops neither the start nor the callers of other issuers.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerSettings],
        leeway: timedelta,
        clock: Clock,
        *,
        connect: Callable[[IssuerSettings], KeySource] = HttpsKeySource,
        pace: Pace = PACE,
    ) -> None:
        """Trust ``issuers``, each for its own credentials only.

        Args:
            issuers: with distinct names and URLs.
            leeway: how far their clocks may be ahead.
            clock: tells what has expired and how old something is.
            connect: makes the way to an issuer's keys.
            pace: how often issuers are asked.
        """
        self._leeway = leeway.total_seconds()
        self._clock = clock
        self._verified = VerifiedCredentials(clock)
        self._issuers = {
            settings.url: (settings, Issuer(settings.name, connect(settings), clock, pace=pace))
            for settings in issuers
        }
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin to fetch keys, and wait a few seconds at most for the first ones."""
        issuers = [issuer for _, issuer in self._issuers.values()]
        self._tasks = [asyncio.create_task(issuer.keep_fresh()) for issuer in issuers]
        # These join the fetches that the tasks above begin with.
        first = [asyncio.create_task(issuer.refresh()) for issuer in issuers]
        self._tasks += first
        try:
            if first:
                await asyncio.wait(first, timeout=START_SECONDS_MAX)
        except asyncio.CancelledError:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop fetching."""
        await self._stop()

    def faults(self) -> dict[str, str]:
        """Return what is wrong, by the names of the issuers; empty when all is well."""
        return {issuer.name: issuer.fault for _, issuer in self._issuers.values() if issuer.fault}

    async def authenticate(self, authorization: str | None) -> Identity:
        """Return who sent a request.

        A credential that was checked within the last minute is known by its hash.

        Args:
            authorization: the value of the request's only Authorization header;
                ``None`` when it has none. A request with several must be refused
                before, or their values be joined by commas, which is refused here.

        Raises:
            UnauthenticatedError: nobody is proven; ``reason`` is a value of
                :class:`keyrest.reasons.Refusal`.
            IssuerUnavailableError: the issuer's keys cannot be had, so nobody knows.
        """
        if authorization is None:
            raise UnauthenticatedError(Refusal.MISSING)
        if len(authorization) > HEADER_CHARACTERS_MAX:
            raise UnauthenticatedError(Refusal.OVERSIZED)
        digest = hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        identity = self._verified.get(digest)
        if identity is None:
            identity = await self._verify(bearer_credential(authorization))
            self._verified.put(digest, identity)
        return identity

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _verify(self, credential: str) -> Identity:
        """Check a credential: its form, its issuer, the signature, the claims."""
        jwt = read_compact(credential)
        url = jwt.claims.get("iss")
        if not isinstance(url, str) or url not in self._issuers:
            raise UnauthenticatedError(Refusal.UNKNOWN_ISSUER)
        settings, issuer = self._issuers[url]
        key = await issuer.key(jwt.key_id, jwt.algorithm)
        key.check(jwt.algorithm, jwt.signed, jwt.signature)
        now = self._clock.now().timestamp()
        return identity_from(jwt.claims, settings, now=now, leeway=self._leeway)
