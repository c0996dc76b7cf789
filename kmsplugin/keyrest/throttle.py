"""How often one caller may ask."""

from __future__ import annotations

import math
from collections import OrderedDict

from keycore.errors import TooManyRequestsError
from keycore.ports import Clock

SAVED_SECONDS = 1.0
"""How long a caller that was silent may save up requests for."""

CALLERS_MAX = 10_000
"""Callers that are remembered; the one that was silent longest is forgotten first."""


class Throttle:
    """Spaces the requests of each caller that this process answers.

    It remembers one moment for each caller: when all that it has asked for so far is
    paid off at the allowed rate (the generic cell rate algorithm, ITU-T I.371). So it
    has no windows, at whose borders twice the rate would pass, and nothing to tidy up.
    """

    def __init__(self, requests_per_second: float | None, clock: Clock) -> None:
        """Let each caller ask so often; ``None`` sets no bound."""
        self._interval = 1 / requests_per_second if requests_per_second else 0.0
        self._saved = max(SAVED_SECONDS, self._interval)
        self._clock = clock
        self._paid_off: OrderedDict[str, float] = OrderedDict()

    def admit(self, actor: str) -> None:
        """Count one request of ``actor``.

        Raises:
            TooManyRequestsError: it is one too many.
        """
        if not self._interval:
            return
        now = self._clock.monotonic()
        paid_off = max(now, self._paid_off.get(actor, now)) + self._interval
        if paid_off - now > self._saved:
            raise TooManyRequestsError(max(1, math.ceil(paid_off - now - self._saved)))
        self._paid_off[actor] = paid_off
        self._paid_off.move_to_end(actor)
        if len(self._paid_off) > CALLERS_MAX:
            self._paid_off.popitem(last=False)
