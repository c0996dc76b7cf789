"""Hears of every write of every process, without asking."""

from __future__ import annotations

import threading
import time
from typing import Final

import psycopg
import structlog

from keycore.adapters.postgresql_connection import connect
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.adapters.sql_rows import CHANNEL
from keycore.errors import KeyplaneError
from keycore.threads import start_daemon

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

    def __init__(self, place: PostgresqlPlace) -> None:
        """Begin to listen."""
        self._place = place
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self.version = 0
        self.listening = False
        start_daemon(self._run, "store-listener")

    def count(self) -> None:
        """Count one write."""
        with self._lock:
            self.version += 1

    def close(self) -> None:
        """Let the thread end, which closes its connection."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (psycopg.Error, KeyplaneError) as error:
                if self.listening and not self._closed.is_set():
                    _log.warning("the store's notifications stopped", reason=type(error).__name__)
            self.listening = False
            self._closed.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with connect(self._place, autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            # Nobody knows what was written before.
            self.count()
            self.listening = True
            asked_at = time.monotonic()
            while not self._closed.is_set():
                for _ in connection.notifies(timeout=_WAIT_SECONDS):
                    self.count()
                if time.monotonic() - asked_at > _PING_SECONDS:
                    connection.execute("SELECT 1")
                    asked_at = time.monotonic()
