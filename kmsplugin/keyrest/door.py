"""Accepts connections on the listening sockets that a worker shares with the others."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

import structlog

_log = structlog.get_logger(__name__)

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_PAUSE_SECONDS = 0.5
"""How long nothing is accepted when the kernel has no descriptor or memory left."""


class Door:
    """One worker's listening socket, and those of the others for when they do not come."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        loop: asyncio.AbstractEventLoop,
        let_in: Callable[[socket.socket], None],
    ) -> None:
        """Serve ``listeners``, one's own first; all of them are closed with the door.

        Args:
            listeners: listening sockets.
            loop: waits for connections.
            let_in: gets every accepted socket.
        """
        self._own, *self._others = listeners
        self._loop = loop
        self._let_in = let_in
        self._pause: asyncio.TimerHandle | None = None
        self.is_open = False

    def open(self) -> None:
        """Accept from now on, those first who wait already."""
        for listener in (self._own, *self._others):
            listener.settimeout(0)
        self._loop.add_reader(self._own, self._accept_one)
        self.is_open = True

    def close(self) -> None:
        """Accept no more; a second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._own)
        for listener in (self._own, *self._others):
            listener.close()

    def help_out(self) -> None:
        """Accept those who still wait for another worker, which has died or hangs."""
        if not self.is_open:
            return
        for listener in self._others:
            while self._accept(listener):
                pass

    def _accept_one(self) -> None:
        # One at a time, or a crowd at the door would stop everything inside.
        self._accept(self._own)

    def _accept(self, listener: socket.socket) -> bool:
        try:
            accepted, _ = listener.accept()
        except OSError as error:
            # Anything else is a connection that went away, or that another worker took.
            if error.errno in _EXHAUSTED:
                self._rest(error)
            return False
        self._let_in(accepted)
        return True

    def _rest(self, error: OSError) -> None:
        """Look away for a while: the socket stays readable, and would call at once again."""
        if self._pause is not None:
            return
        _log.error("no connection can be accepted for the moment", reason=error.strerror)
        self._loop.remove_reader(self._own)
        self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._own, self._accept_one)
