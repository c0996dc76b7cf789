"""Work that is done again and again beside everything else."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

_JOIN_SECONDS = 2.0


class Repeating(ABC):
    """Calls :meth:`run_once` at intervals, in a thread of its own, while it is entered.

    A thread, because what it looks at may be slow, and nobody else shall wait for it.
    """

    def __init__(self, interval_seconds: float) -> None:
        """Wait so long before each call, the first one too."""
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        # A call can hang in a disk or in the HSM, and must not keep the process alive.
        self._thread = threading.Thread(target=self._repeat, name="upkeep", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the thread, and wait for a call that runs, but not for one that hangs."""
        self._stopping.set()
        self._thread.join(_JOIN_SECONDS)

    @abstractmethod
    def run_once(self) -> None:
        """Do the work now. It must not raise, or it would not be done again."""

    def _repeat(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            self.run_once()
