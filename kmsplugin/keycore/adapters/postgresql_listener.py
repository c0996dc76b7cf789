"""Hears of every write of every process, without asking."""

from __future__ import annotations

import threading
import time
from typing import Final

import psycopg
import structlog

from keycore.adapters.postgresql_connection import Route, reason_of
from keycore.errors import KeyplaneError
from keycore.threads import start_daemon

CHANNEL: Final = "keyplane_changes"
"""What the server notifies everybody on who listens, at each commit of a change."""

_RETRY_SECONDS: Final = 1.0

_WAIT_SECONDS: Final = 1.0
"""How soon a thread notices that it shall end."""

_PING_SECONDS: Final = 10.0
"""How often the server is asked whether it is still there."""

_log = structlog.get_logger(__name__)


class Listener:
    """One connection and one thread that count writes.

    Attributes:
        version: another number after every write, and after every time that some may
            have been missed.
        listening: whether notifications come in now.
    """

    def __init__(self, route: Route) -> None:
        """Begin to listen."""
        self._route = route
        self._closed = threading.Event()
        self._left = threading.Event()
        self._lock = threading.Lock()
        # No number of an earlier listener, which somebody may remember.
        self.version = time.monotonic_ns()
        self.listening = False
        # What the log was told last; empty while notifications come.
        self._fault = ""
        start_daemon(self._run, "store-listener")

    def count(self) -> None:
        """Count one write."""
        with self._lock:
            self.version += 1

    def leave_server(self) -> None:
        """Listen to the server that takes writes now."""
        self._left.set()

    def close(self) -> None:
        """Let the thread end, which closes its connection."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            fault = self._failure()
            self.listening = False
            if fault and fault != self._fault and not self._closed.is_set():
                self._fault = fault
                _log.warning("the store's notifications do not come", reason=fault)
            self._closed.wait(_RETRY_SECONDS)

    def _failure(self) -> str:
        """Listen for as long as that goes well, and return what ended it."""
        try:
            self._listen()
        except psycopg.Error as error:
            return reason_of(error)
        except KeyplaneError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - see below.
            # Without this thread nobody would listen any more.
            _log.exception("listening to the store failed unexpectedly")
            return type(error).__name__
        return ""

    def _listen(self) -> None:
        self._left.clear()
        with self._route.connect(autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            # Nobody knows what was written before.
            self.count()
            self.listening = True
            if self._fault:
                _log.info("the store's notifications come again")
                self._fault = ""
            asked_at = time.monotonic()
            while not self._closed.is_set() and not self._left.is_set():
                for _ in connection.notifies(timeout=_WAIT_SECONDS):
                    self.count()
                if time.monotonic() - asked_at > _PING_SECONDS:
                    connection.execute("SELECT 1")
                    asked_at = time.monotonic()
