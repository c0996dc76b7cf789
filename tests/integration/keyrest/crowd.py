"""Clients that ask without pause, and count every request that got no answer."""

from __future__ import annotations

import ssl
import threading
from types import TracebackType
from typing import Self

from tests.integration.keyrest.raw_client import RawClient


class Crowd:
    """Several clients in threads of their own; half of them make a connection for each request.

    A client that finds nobody to connect to tries again: only a request that was sent
    over a connection that had been let in can be lost.

    Attributes:
        answered: requests that got a whole answer.
        lost: what happened instead of an answer.
    """

    def __init__(
        self, address: tuple[str, int], tls: ssl.SSLContext, request: bytes, *, size: int = 8
    ) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._address = address
        self._tls = tls
        self._request = request
        self._leaving = threading.Event()
        self._counting = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(bool(number % 2),), name=f"client {number}")
            for number in range(size)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, keeps_connection: bool) -> None:
        while not self._leaving.is_set():
            try:
                client = RawClient(self._address, self._tls)
            except OSError:
                self._leaving.wait(0.01)
                continue
            with client:
                self._ask_through(client, keeps_connection)

    def _ask_through(self, client: RawClient, keeps_connection: bool) -> None:
        while not self._leaving.is_set():
            try:
                answer = client.ask(self._request)
            except (OSError, EOFError) as error:
                self._count(lost=repr(error))
                return
            self._count(lost="" if answer.status == 200 else str(answer.status))
            if answer.is_last or not keeps_connection:
                return

    def _count(self, *, lost: str) -> None:
        with self._counting:
            if lost:
                self.lost.append(lost)
            else:
                self.answered += 1
