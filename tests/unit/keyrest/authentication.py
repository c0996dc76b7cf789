"""What the tests of credentials share: two issuers in memory and an authenticator for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from keycore.errors import UnauthenticatedError
from keyrest.credentials import Authenticator
from keyrest.issuers import PACE, Pace
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.signing_issuer import SigningIssuer

LEEWAY_SECONDS = 30


@dataclass
class Site:
    """An authenticator that has not been entered yet, and its issuers."""

    clock: FixedClock
    issuers: Sequence[SigningIssuer]
    authenticator: Authenticator

    @property
    def issuer(self) -> SigningIssuer:
        return self.issuers[0]

    @property
    def now(self) -> int:
        return int(self.clock.now().timestamp())

    async def refusal(self, authorization: str | None) -> str:
        """Return the reason for which a header is refused."""
        with pytest.raises(UnauthenticatedError) as refused:
            await self.authenticator.authenticate(authorization)
        return refused.value.reason


def site(*names: str, pace: Pace = PACE) -> Site:
    """Return a site with issuers of these names; without any, ``idp`` alone."""
    clock = FixedClock()
    issuers = [SigningIssuer(name, clock) for name in names or ("idp",)]
    sources = {issuer.name: issuer for issuer in issuers}
    authenticator = Authenticator(
        [issuer.settings for issuer in issuers],
        timedelta(seconds=LEEWAY_SECONDS),
        clock,
        connect=lambda settings: sources[settings.name],
        pace=pace,
    )
    return Site(clock, issuers, authenticator)
