"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FixedClock:
    """Starts at noon on 1 March 2030, unless a test wants another time."""

    def __init__(self, now: datetime = datetime(2030, 3, 1, 12, tzinfo=UTC)) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, **parts: float) -> None:
        """Move on by ``timedelta(**parts)``."""
        step = timedelta(**parts)
        self._now += step
        self._monotonic += step.total_seconds()
