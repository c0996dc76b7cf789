"""Waits for a lost token to come back, and then starts the module anew."""

from __future__ import annotations

import threading

import structlog

from keycore.adapters.pkcs11_connection import Connection
from keycore.adapters.pkcs11_lanes import Lanes
from keycore.adapters.pkcs11_presence import NOT_BACK, Presence
from keycore.errors import (
    KeyplaneError,
    PinRejectedError,
    SettingsError,
    TokenUnavailableError,
)

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.5
"""Pause before the first look; it doubles up to :data:`INTERVAL_SECONDS_MAX`."""

INTERVAL_SECONDS_MAX = 4.0


class Recovery:
    """What is known of a lost token. Its thread lives only while the token is lost.

    Attributes:
        fault: why the token counts as lost, and what to do; empty while it does not.
    """

    def __init__(self, connection: Connection, lanes: Lanes) -> None:
        """Recover ``connection``, with all ``lanes`` stopped meanwhile."""
        self._connection = connection
        self._lanes = lanes
        self._presence = Presence(connection)
        self._closed = threading.Event()
        self._beginning = threading.Lock()
        self.fault = ""

    def refuse_if_lost(self) -> None:
        """Spare everybody the attempt to open a session on a token that is not there.

        Raises:
            TokenUnavailableError: the token is lost.
        """
        if self.fault:
            raise TokenUnavailableError(self.fault)

    def begin(self, error: KeyplaneError) -> None:
        """Count the token as lost because of ``error``, and look for it from now on."""
        with self._beginning:
            if self.fault or self._closed.is_set():
                return
            # A look can hang in the module, and must not keep the process alive.
            thread = threading.Thread(target=self._recover, name="token-recovery", daemon=True)
            self.fault = _words_for(error)
            try:
                thread.start()
            except RuntimeError:
                # No thread can be had now, so the next one who meets the fault tries again.
                self.fault = ""

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()

    def _recover(self) -> None:
        seconds = INTERVAL_SECONDS
        while not self._closed.wait(seconds):
            seconds = min(2 * seconds, INTERVAL_SECONDS_MAX)
            fault = self._fault_now()
            if not fault:
                return
            self.fault = fault

    def _fault_now(self) -> str:
        """Look once, and start anew if all is well; return what is wrong, empty for nothing."""
        try:
            return self._presence.fault() or self._start_anew()
        except Exception:  # noqa: BLE001 - without this thread the token would stay lost.
            _log.exception("looking for the token failed unexpectedly")
            return NOT_BACK

    def _start_anew(self) -> str:
        """Return what has gone wrong; empty when the token works again."""
        try:
            with self._lanes.all() as lanes, self._connection.guard:
                for lane in lanes:
                    lane.abandon()
                self._connection.reconnect()
                lanes[0].login = self._connection.new_login()
                # Before anybody can take a lane, which would be refused otherwise.
                self.fault = ""
        except KeyplaneError as error:
            return _words_for(error)
        return ""


def _words_for(error: KeyplaneError) -> str:
    if isinstance(error, PinRejectedError | SettingsError):
        return f"{error.message}; {error.hint}"
    # What a module answers about a token that is gone differs from module to module, and
    # says nothing to a person: "already logged in" is SoftHSM2's way.
    return NOT_BACK
