"""The HTTPS server of one process: whom it lets in, whom it sees off, and how it ends.

uvicorn brings the HTTP protocol; its own server does not fit. It keeps one TLS context
for life, does not count connections that never shake hands, and stops by closing
connections whose next request may be under way already.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from email.utils import formatdate
from typing import Protocol

import structlog
from uvicorn import Config
from uvicorn.server import ServerState

from keyrest.door import Door
from keyrest.last_resort import App
from keyrest.limits import Limits
from keyrest.protocol import Connection
from keyrest.socket_queues import is_delivered
from keyrest.tls import TlsContext

_log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.02
"""How often a stopping server looks whether it is done."""


class TlsSource(Protocol):
    """Where the TLS context of each new connection comes from."""

    @property
    def context(self) -> TlsContext:
        """The context for a connection that is made now."""


class RestServer:
    """Serves one application in the running event loop."""

    def __init__(self, app: App, tls: TlsSource, limits: Limits) -> None:
        """Serve ``app``, an ASGI 3 application whose lifespan is somebody else's."""
        self._tls = tls
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._state = ServerState()
        self._admissions: dict[asyncio.Task[None], Connection] = {}
        self._is_stopping = False
        self._accepted_at = 0.0
        self._starter = os.getppid()
        self._config = Config(
            app,
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        self._config.load()

    async def serve(self, listeners: Sequence[socket.socket], stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then answer what has come in, and return.

        The end takes :attr:`Limits.grace_seconds` at most.

        Args:
            listeners: as :class:`Door` takes them; closed by then.
            stop: says when the end begins.
        """
        door = Door(listeners, self._loop, self._let_in)
        try:
            async with asyncio.TaskGroup() as tasks:
                sweeping = tasks.create_task(self._sweep(door))
                door.open()
                await stop.wait()
                await self._stop(door)
                sweeping.cancel()
        finally:
            door.close()

    @property
    def connection_count(self) -> int:
        """Connections that are open now, after their handshake. Any thread may ask."""
        return len(self._state.connections)

    @property
    def _connections(self) -> list[Connection]:
        # uvicorn types the set by its own protocols; only ours are ever put into it.
        return list(self._state.connections)  # type: ignore[arg-type]

    # Letting in.

    def _let_in(self, accepted: socket.socket) -> None:
        if self._guest_count() >= self._limits.connections_max:
            accepted.close()
            return
        self._accepted_at = self._loop.time()
        tls = self._tls.context
        connection = Connection(
            self._config,
            self._state,
            limits=self._limits,
            loop=self._loop,
            generation=tls.generation,
        )
        if self._is_stopping:
            connection.retire()
        admission = self._loop.create_task(self._admit(accepted, connection, tls.ssl))
        self._admissions[admission] = connection
        admission.add_done_callback(self._admissions.pop)

    def _guest_count(self) -> int:
        """Count the connections, those that still shake hands included."""
        made = self._state.connections
        return len(made) + sum(guest not in made for guest in self._admissions.values())

    async def _admit(
        self, accepted: socket.socket, connection: Connection, tls: ssl.SSLContext
    ) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=tls,
                ssl_handshake_timeout=self._limits.handshake_seconds,
                ssl_shutdown_timeout=self._limits.write_seconds,
            )
        except OSError as error:
            # Whoever knocks without speaking TLS would fill the log at any other level.
            _log.debug("no TLS connection came about", reason=type(error).__name__)

    # Watching.

    async def _sweep(self, door: Door) -> None:
        """End what is overdue, and keep the Date header right."""
        while True:
            door.help_out()
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            now, generation = self._loop.time(), self._tls.context.generation
            for connection in self._connections:
                connection.check(now)
                if connection.generation != generation:
                    # Its client may be one that is not let in any more.
                    connection.retire()
                    self._leave_if_idle(connection, now)
            await asyncio.sleep(self._limits.sweep_seconds)

    def _leave_if_idle(self, connection: Connection, now: float) -> None:
        if not connection.is_busy and self._has_rested(connection, now):
            connection.leave()

    def _has_rested(self, connection: Connection, now: float) -> bool:
        limits = self._limits
        seconds = limits.newcomer_seconds if connection.is_new else limits.quiet_seconds
        return now - connection.moved_at >= seconds

    # Stopping.

    async def _stop(self, door: Door) -> None:
        """Answer everything that has come in, as :class:`Limits` bounds it.

        A client learns from its next answer that the connection ends. Only those
        that ask for nothing are cut off without one. A request on a connection that was
        not accepted yet cannot be lost: TLS lets nobody send it before.
        """
        _log.info("stopping: what has come in is answered")
        started = self._loop.time()
        self._is_stopping = True
        for connection in (*self._connections, *self._admissions.values()):
            connection.retire()
        accept_until = started + (0 if self._is_orphan() else self._limits.accept_seconds)
        while self._state.connections or self._admissions or door.is_open:
            now = self._loop.time()
            if now >= accept_until or self._is_quiet(now):
                door.close()
            if not door.is_open:
                self._see_off(now)
            if now - started >= self._limits.grace_seconds:
                self._abandon()
                return
            await asyncio.sleep(_TICK_SECONDS)

    def _is_orphan(self) -> bool:
        """Tell whether the supervisor has gone: its successor needs the port at once."""
        return os.getppid() != self._starter

    def _is_quiet(self, now: float) -> bool:
        moved_at = [connection.moved_at for connection in self._connections]
        return (
            not self._admissions
            and not any(connection.is_busy for connection in self._connections)
            and now - max(self._accepted_at, *moved_at, 0.0) >= self._limits.quiet_seconds
        )

    def _see_off(self, now: float) -> None:
        for connection in self._connections:
            if not connection.transport.is_closing():
                self._leave_if_idle(connection, now)
            elif self._has_rested(connection, now) and is_delivered(connection.transport):
                # Many clients look at an idle connection only when they need it again,
                # and would let us wait for their farewell.
                connection.transport.abort()

    def _abandon(self) -> None:
        unanswered = sum(connection.is_busy for connection in self._connections)
        if unanswered:
            _log.error("requests were not answered in time", count=unanswered)
        for connection in self._connections:
            connection.abandon()
        for task in (*self._state.tasks, *self._admissions):
            task.cancel()
