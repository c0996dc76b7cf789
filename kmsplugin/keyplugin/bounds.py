"""Bounds for the start and the end of a process, which both can hang in the HSM.

A call that never comes back from the HSM cannot be cancelled: Python's threads end only by
themselves, and the interpreter waits for them. Whoever started the process waits too, and a
process that hangs in a takeover keeps others from it. So it ends by force. What a call
could leave behind is in the HSM; files and store are whole at any moment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import structlog

from keycore.service.repeating import Repeating
from keyplugin.server import GRACE_SECONDS, QUIET_SECONDS_MAX

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

STUCK_EXIT_CODE: Final = os.EX_TEMPFAIL
"""75: the process had to end although a call was inside the HSM that did not return."""

START_SECONDS_MAX: Final = 90.0
"""How long a start may take. A store that is busy, or another start that must end first,
can take half a minute each."""

ASKED_SECONDS_MAX: Final = 5.0
"""How long a start may go on after a signal to end; it usually ends by itself then."""

END_SECONDS_MAX: Final = QUIET_SECONDS_MAX + GRACE_SECONDS + 1.0
"""How long the end of a process may take, from the moment at which it stops serving."""

_LOOK_SECONDS: Final = 0.25

_log = structlog.get_logger(__name__)


class BoundedStart(Repeating):
    """Ends the process by force when its start takes too long, or is asked to end and does not.

    It is entered before the token is opened, and :meth:`over` ends it.
    """

    def __init__(self) -> None:
        """Let the time run from now on."""
        super().__init__(_LOOK_SECONDS)
        self._latest = time.monotonic() + START_SECONDS_MAX

    def over(self) -> None:
        """The process serves; signals are waited for from now on."""
        self._stopping.set()

    def run_once(self) -> None:
        """Look at the time and at the signals that wait."""
        if signal.sigpending() & STOP_SIGNALS:
            self._latest = min(self._latest, time.monotonic() + ASKED_SECONDS_MAX)
        if time.monotonic() > self._latest and not self._stopping.is_set():
            _end_by_force(
                "the start hangs, most likely in the HSM, and the process ends; check the HSM",
                STUCK_EXIT_CODE,
            )


class BoundedEnd:
    """Ends the process by force when its orderly end takes too long.

    Attributes:
        code: what the process then ends with.
    """

    def __init__(self) -> None:
        """Bound nothing yet."""
        self.code = STUCK_EXIT_CODE
        self._timer = threading.Timer(END_SECONDS_MAX, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Begin the block whose end may be bounded."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The end was orderly."""
        self._timer.cancel()

    @contextmanager
    def beginning_after(self) -> Iterator[None]:
        """Let the time run from the end of a block on, whatever ends it."""
        try:
            yield
        finally:
            self._timer.start()

    def _end(self) -> None:
        _end_by_force(
            "a call inside the HSM does not return, and the process ends without it; "
            "check the HSM before the next start",
            self.code,
        )


def _end_by_force(why: str, code: int) -> None:
    _log.error(why)
    os._exit(code)
