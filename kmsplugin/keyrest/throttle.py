"""How often one caller may ask."""

from __future__ import annotations

import math
import time
from fractions import Fraction

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from keycore.errors import TooManyRequestsError

_SECONDS_COUNTED_MAX = 10
"""A rate such as 2.5 a second is counted as 5 in 2 seconds, over this long at most, so
that nobody saves up much."""


class Throttle:
    """Counts the requests of each caller that this process answers."""

    def __init__(self, requests_per_second: float | None) -> None:
        """Let each caller ask so often; ``None`` sets no bound."""
        self._limit = None if requests_per_second is None else _limit(requests_per_second)
        # Made only when it is needed: it keeps a thread of its own.
        self._counts = None if self._limit is None else FixedWindowRateLimiter(MemoryStorage())

    def admit(self, actor: str) -> None:
        """Count one request of ``actor``.

        Raises:
            TooManyRequestsError: it is one too many.
        """
        if self._limit is None or self._counts is None or self._counts.hit(self._limit, actor):
            return
        reset_at = self._counts.get_window_stats(self._limit, actor).reset_time
        raise TooManyRequestsError(max(1, math.ceil(reset_at - time.time())))


def _limit(requests_per_second: float) -> RateLimitItemPerSecond:
    if requests_per_second < 1:
        return RateLimitItemPerSecond(1, math.ceil(1 / requests_per_second))
    rate = Fraction(requests_per_second).limit_denominator(_SECONDS_COUNTED_MAX)
    return RateLimitItemPerSecond(rate.numerator, rate.denominator)
