"""A REST server of this process, in a thread of its own, with a small application behind it."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import uvloop

from keycore.adapters.system_clock import SystemClock
from keycore.settings import IssuerSettings, RestSettings, Settings, TlsSettings
from keyrest.limits import Limits
from keyrest.listening import open_listeners
from keyrest.server import RestServer, TlsSource
from keyrest.tls import TlsFiles
from testbed.loopback import HOST
from testbed.waiting import wait_until

STOP_SECONDS_MAX = 30

ISSUER = IssuerSettings(name="idp", url="https://127.0.0.1:1", audience="keyplane")
"""Nobody asks it: the server serves any application."""


class SmallApp:
    """Answers by path; ``/wait`` answers when the test says so.

    Attributes:
        started: requests that have reached the application.
        answered: requests whose answer was handed to the server.
    """

    def __init__(self) -> None:
        self.started = 0
        self.answered = 0
        self.may_answer = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.started += 1
        match scope["path"]:
            case "/wait":
                await asyncio.to_thread(self.may_answer.wait, STOP_SECONDS_MAX)
                await self._answer(send, {})
            case "/early":
                await self._answer(send, {}, status=413)
            case "/large":
                await self._answer(send, "x" * int(scope["query_string"]))
            case _:
                body = await self._body(receive)
                headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
                await self._answer(send, {"bytes": len(body), "headers": headers})

    async def _body(self, receive: Any) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return body

    async def _answer(self, send: Any, document: Any, *, status: int = 200) -> None:
        body = orjson.dumps(document)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.answered += 1


class ServedApp:
    """Serves ``app`` while it is entered; leaving it stops the server in order."""

    def __init__(self, app: Any, tls: TlsSource, limits: Limits | None = None) -> None:
        self._app = app
        self._tls = tls
        self._limits = limits or Limits()
        [self._listener] = open_listeners(RestSettings(port=0, issuers=(ISSUER,)))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="served app")
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(STOP_SECONDS_MAX)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.begin_stop()
        self.wait_for_end()

    def begin_stop(self) -> None:
        """Do what a signal does, and wait until the server has noticed."""
        if self.has_ended:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        wait_until(
            lambda: self._server._is_stopping or self.has_ended,
            what="the end begins",
            within_seconds=STOP_SECONDS_MAX,
        )

    def wait_for_end(self) -> float:
        """Return after how many seconds the server had ended."""
        started = time.monotonic()
        self._thread.join(STOP_SECONDS_MAX)
        assert not self._thread.is_alive()
        return time.monotonic() - started

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def has_connections(self) -> bool:
        return bool(self._server._state.connections)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.call_soon(self._is_up.set)
        self._server = RestServer(self._app, self._tls, self._limits)
        await self._server.serve([self._listener], self._stop)


class OwnTls:
    """A certificate that keyplane has made, and clients that trust it alone."""

    def __init__(self, directory: Path, *, client_ca: Path | None = None) -> None:
        rest = RestSettings(tls=TlsSettings(client_ca=client_ca))
        self.files = TlsFiles(Settings(state_dir=directory, rest=rest), SystemClock())
        self.ca_file = directory / "tls" / "tls.crt"

    @property
    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)
