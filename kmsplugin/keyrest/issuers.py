"""Keeps the keys of one issuer fresh, and survives the issuer's absence.

Keys are fetched at start, every few minutes, and when a credential names a key that
is not known yet. The last keys that were fetched stay in use while the issuer does
not answer. However many credentials with invented keys arrive, the issuer is asked
once in a while only, and all who wait for it share one answer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog

from keycore.errors import IssuerUnavailableError, UnauthenticatedError
from keycore.ports import Clock
from keyrest.discovery import KeySource
from keyrest.jwks import VerificationKey, VerificationKeys
from keyrest.reasons import Refusal

_log = structlog.get_logger(__name__)

NOT_FETCHED = "its keys have not been fetched yet"

NO_KEYS = "it publishes no key that can be used"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an issuer is asked; all in seconds."""

    period: float = 300.0
    """Between two refreshes when all is well: how long a withdrawn key may live on."""

    floor: float = 10.0
    """At least between a fetch and the next one that a credential causes."""

    retry: float = 1.0
    """After the first failed fetch; twice as long after each further one."""

    retry_max: float = 30.0
    """The longest wait after a failed fetch."""


PACE = Pace()


class Issuer:
    """The keys of one issuer over time. Belongs to one event loop."""

    def __init__(self, name: str, source: KeySource, clock: Clock, *, pace: Pace = PACE) -> None:
        """Start without keys.

        Args:
            name: the issuer's name in the settings, for logs and messages.
            source: where the keys come from.
            clock: measures how long ago the last fetch was.
            pace: how often ``source`` is asked.
        """
        self.name = name
        self.fault = NOT_FETCHED
        self._source = source
        self._clock = clock
        self._pace = pace
        self._keys: VerificationKeys | None = None
        self._failures = 0
        self._fetched_at = -float("inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None, algorithm: str) -> VerificationKey:
        """Return the key that a credential names, asking the issuer if it may be new.

        Raises:
            UnauthenticatedError: there is no such key, or it is not for ``algorithm``.
            IssuerUnavailableError: nobody can tell, because the issuer does not answer.
        """
        found = self._find(key_id, algorithm)
        if found is None and self._may_ask():
            await self.refresh()
            found = self._find(key_id, algorithm)
        if found is not None:
            return found
        if self._failures:
            raise self._unavailable()
        raise UnauthenticatedError(Refusal.UNKNOWN_KEY)

    async def refresh(self) -> None:
        """Fetch the keys, or wait for the fetch that runs; a failure ends in ``fault``.

        A caller that is cancelled does not cancel the fetch for the others.
        """
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._end_fetch)
        await asyncio.shield(self._fetching)

    async def keep_fresh(self) -> None:
        """Refresh for ever, sooner after a failure; ends by cancellation."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(self.next_refresh_seconds())
        finally:
            await self._abandon()

    def next_refresh_seconds(self) -> float:
        """Return how long to wait before the next refresh."""
        if not self._failures:
            return self._pace.period
        # Limited, since 2 ** a month of failures is no float any more.
        doublings = min(self._failures - 1, 16)
        return min(self._pace.retry * 2.0**doublings, self._pace.retry_max)

    def _find(self, key_id: str | None, algorithm: str) -> VerificationKey | None:
        if self._keys is None:
            raise self._unavailable()
        return self._keys.find(key_id, algorithm)

    def _unavailable(self) -> IssuerUnavailableError:
        return IssuerUnavailableError(
            f"the keys of issuer {self.name} cannot be fetched at the moment",
            hint="try again later",
        )

    def _may_ask(self) -> bool:
        if self._fetching is not None:
            return True
        return self._clock.monotonic() - self._fetched_at >= self._pace.floor

    async def _fetch(self) -> None:
        try:
            keys = await self._source.fetch()
        except IssuerUnavailableError as error:
            self._fail(error.message)
        except Exception as error:  # noqa: BLE001 - without refreshes no new key would ever be seen.
            # By type alone: an unforeseen text could quote what was sent.
            self._fail(f"fetching its keys failed unexpectedly: {type(error).__name__}")
        else:
            self._take(keys)
        self._fetched_at = self._clock.monotonic()

    def _end_fetch(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _abandon(self) -> None:
        fetching = self._fetching
        if fetching is not None:
            fetching.cancel()
            with suppress(asyncio.CancelledError):
                await fetching

    def _fail(self, fault: str) -> None:
        self._failures += 1
        if fault != self.fault:
            _log.warning("issuer unavailable", issuer=self.name, fault=fault)
        self.fault = fault

    def _take(self, keys: VerificationKeys) -> None:
        is_news = keys != self._keys or self._failures
        self._keys, self._failures = keys, 0
        self.fault = "" if len(keys) else NO_KEYS
        if is_news:
            log = _log.warning if self.fault else _log.info
            log("issuer's keys fetched", issuer=self.name, usable_keys=len(keys))
