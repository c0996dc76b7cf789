"""Turns the signals that end a process into an event of its loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """Catches SIGTERM and SIGINT while it is entered, in the main thread.

    A second one changes nothing of what the first began.

    Attributes:
        has_come: whether one has come.
    """

    def __init__(self) -> None:
        """Catch nothing yet."""
        self._before: dict[signal.Signals, Any] = {}
        self.has_come = False
        self._tell: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        """Catch them from now on, although no loop may run yet."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let them do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def event(self) -> asyncio.Event:
        """Return an event of the running loop that is set as soon as one has come."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        self._tell = lambda: loop.call_soon_threadsafe(event.set)
        if self.has_come:
            event.set()
        return event

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.has_come = True
        # The loop may be closed already, and then nobody waits for the event.
        with suppress(RuntimeError):
            self._tell()
