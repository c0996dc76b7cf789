"""A TCP proxy on the loopback address that can cut, refuse and swallow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from testbed.errors import ControlPlaneError
from testbed.loopback import HOST, free_port
from testbed.startable import Startable

_BYTES_MAX: Final = 65_536
_BACKLOG: Final = 128
_CONNECT_SECONDS: Final = 5.0


class Proxy(Startable):
    """Passes bytes on to a port of this machine, until it is told to do otherwise.

    Every connection costs two threads; they end with it.

    Attributes:
        port: Where it listens on the loopback address; the same for its whole life.
    """

    def __init__(self, target: int) -> None:
        """Choose its port without listening on it.

        Args:
            target: The port of the server behind it; :meth:`aim` changes it.
        """
        self.port = free_port()
        self._target = target
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: set[threading.Thread] = set()
        self._swallows = False
        self._accepted = 0

    @property
    def accepted(self) -> int:
        """How many connections it has taken since it was made."""
        return self._accepted

    @property
    def open_connections(self) -> int:
        """How many connections go through it now."""
        with self._lock:
            return len(self._pairs)

    def start(self) -> None:
        """Listen, and pass bytes on.

        Raises:
            ControlPlaneError: It listens already.
        """
        if self._listener is not None:
            raise ControlPlaneError(f"The proxy on port {self.port} listens already.")
        self._listener = socket.create_server((HOST, self.port), backlog=_BACKLOG)
        self._begin(self._accept, self._listener)

    def stop(self) -> None:
        """Refuse new connections, cut all others, and wait for the threads' end."""
        self.refuse()
        self.cut()
        self._swallows = False
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(_CONNECT_SECONDS)

    def aim(self, target: int) -> None:
        """Connect to another port from the next connection on."""
        self._target = target

    def cut(self) -> int:
        """End every connection at once, towards both sides.

        Returns:
            How many there were.
        """
        with self._lock:
            pairs = tuple(self._pairs)
        for pair in pairs:
            _break(pair)
        return len(pairs)

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # This wakes the thread that waits in accept; close alone does not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def accept(self) -> None:
        """Take connections again after :meth:`refuse`."""
        self.start()

    def stall(self) -> None:
        """Swallow every byte from now on, as a network that drops packets does.

        New connections are taken too, and nothing is ever heard on them.
        """
        self._swallows = True

    def resume(self) -> None:
        """Pass bytes on again; connections that lost some are cut."""
        self.cut()
        self._swallows = False

    def _begin(self, work: Callable[[socket.socket], None], on: socket.socket) -> None:
        def run() -> None:
            work(on)
            with self._lock:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"proxy-{self.port}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._accepted += 1
            self._begin(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self._target), _CONNECT_SECONDS)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
        back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
        back.start()
        self._pass(client, server)
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        client.close()
        server.close()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass bytes one way until either end is gone; the other way ends with it."""
        with suppress(OSError):
            while chunk := source.recv(_BYTES_MAX):
                if not self._swallows:
                    sink.sendall(chunk)
        # While packets are dropped, neither end hears that the other has gone.
        if not self._swallows:
            _break((source, sink))


def _break(pair: tuple[socket.socket, ...]) -> None:
    for end in pair:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
