"""Keeps what a REST process knows of store and files fresh, beside the event loop.

It is a thread, because a slow disk or a store under load must not stop the callers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from keycore.errors import KeyplaneError
from keycore.service.repeating import Repeating

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.25
"""Changes by other processes must be seen within one second, and a key in the cache is
believed for half a one. Looking twice as often, while there are requests, keeps that wait
out of them."""

Step = Callable[[], object]


class Upkeep(Repeating):
    """Repeats its steps while it is entered; what one of them raises stops no other."""

    def __init__(
        self, steps: Mapping[str, Step], *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        """Repeat ``steps``; their names stand in the log."""
        super().__init__(interval_seconds)
        self._steps = steps
        self._failures = dict.fromkeys(steps, "")

    def run_once(self) -> None:
        """Take every step once, now."""
        for name, step in self._steps.items():
            try:
                step()
            except KeyplaneError as error:
                self._note(name, error.message)
            except Exception as error:  # noqa: BLE001 - the other steps must still be taken.
                self._note(name, repr(error), error)
            else:
                self._note(name, "")

    def _note(self, name: str, failure: str, unexpected: Exception | None = None) -> None:
        """Log what has changed since the last time, and not four times a second."""
        known, self._failures[name] = self._failures[name], failure
        if failure == known:
            return
        if unexpected is not None:
            _log.error("upkeep failed unexpectedly", step=name, exc_info=unexpected)
        elif failure:
            _log.warning("upkeep failed", step=name, reason=failure)
        else:
            _log.info("upkeep succeeds again", step=name)
