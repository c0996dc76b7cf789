"""Something outside that is looked at now and then, so that whoever asks need not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from keycore.ports import Clock
from keycore.service.readiness import Finding, Outcome
from keycore.service.repeating import Repeating

_log = structlog.get_logger(__name__)

SILENT_SECONDS: Final = 20.0
"""How long ago the last look may have ended. A busy store can delay one for 15 seconds, so
a longer silence means a call that never came back."""


class Look:
    """One thing that is looked at, and how that went the last time.

    Attributes:
        what: names it in a sentence, such as ``the store``.
    """

    def __init__(
        self,
        what: str,
        look: Callable[[], object],
        clock: Clock,
        *,
        explain: Callable[[Exception], str],
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """Look by calling ``look``; nothing is known before the first time.

        Args:
            what: names it.
            look: may take its time, and raises when it finds a fault.
            clock: tells how old the last look is.
            explain: says in safe words what was raised.
            silent_seconds: without a look for so long there is a fault.
        """
        self.what = what
        self._look = look
        self._clock = clock
        self._explain = explain
        self._silent_seconds = silent_seconds
        self._fault = ""
        self._looked_at = float("-inf")

    def take(self) -> None:
        """Look now, and remember how it went; what is raised passes."""
        try:
            self._look()
        except Exception as error:
            self._fault = self._explain(error)
            raise
        else:
            self._fault = ""
        finally:
            self._looked_at = self._clock.monotonic()

    def fault(self) -> str:
        """Return what the last look found, or that it is too long ago; empty when all is well."""
        if self._fault or self.age_seconds() <= self._silent_seconds:
            return self._fault
        if self._looked_at == float("-inf"):
            return f"{self.what} was not asked yet"
        return f"{self.what} has not answered for more than {self._silent_seconds:.0f} seconds"

    def age_seconds(self) -> float:
        """Return how long ago the last look ended; infinite before the first one."""
        return self._clock.monotonic() - self._looked_at

    def finding(self) -> Finding:
        """Return the fault as a finding that makes the process unready."""
        fault = self.fault()
        return Finding(Outcome.FAILED, fault) if fault else Finding()


class Looking(Repeating):
    """Takes one look again and again, in a thread of its own while it is entered."""

    def __init__(self, look: Look, interval_seconds: float) -> None:
        """Take ``look`` so often."""
        super().__init__(interval_seconds)
        self._look = look
        self._known = ""

    def run_once(self) -> None:
        """Look now. Nothing that goes wrong ends here; the log is told what has changed."""
        unexpected: Exception | None = None
        try:
            self._look.take()
        except Exception as error:  # noqa: BLE001 - it has been kept, and the next look may succeed.
            unexpected = error
        known, self._known = self._known, self._look.fault()
        if self._known == known:
            return
        if self._known:
            _log.warning("a look found a fault", at=self._look.what, reason=self._known)
            _log.debug("how it came about", exc_info=unexpected)
        else:
            _log.info("a look found no fault any more", at=self._look.what)
