"""A small HTTP listener for pages that only tell: metrics and health.

It knows nothing of what it serves: it takes one function for each path. It reads one
request from each connection, answers and closes. Everything that a caller could use up
has a bound, because whoever reaches the address may ask, and the process beside it holds
keys. Nothing of a request is ever logged or sent back.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

HEAD_BYTES_MAX: Final = 8 * 1024
"""Request line and headers together; Prometheus and kubelet send a few hundred bytes."""

REQUEST_SECONDS_MAX: Final = 5.0
"""From the connection to the last byte of the answer; probes give up after one second."""

CONNECTIONS_MAX: Final = 32
"""Connections at once; further ones are closed unread."""

_BACKLOG: Final = 64

_HEAD_END: Final = b"\r\n\r\n"

_READING_METHODS: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


Page = Callable[[str], Answer]
"""Answers one path. It gets the query (without ``?``, not decoded), runs in the
listener's one thread, and must not wait for anything."""


@contextmanager
def listening(address: str, pages: Mapping[str, Page]) -> Iterator[str]:
    """Serve ``pages`` in a thread of its own until the block ends.

    Other processes of the same user may listen on the same address at the same time,
    and the kernel gives each connection to one of them: a provider that takes over
    from another one serves beside it for a while.

    Args:
        address: IP address and port; port 0 takes a free one.
        pages: functions by path, such as ``/metrics``.

    Yields:
        Where it listens, with the real port; empty when the address cannot be had.
        That is logged and nothing else: what the process really serves matters more.
    """
    try:
        listener = _bound(address)
    except (OSError, OverflowError) as error:
        # Of several workers the last ones may be beyond the range of ports.
        number = error.errno if isinstance(error, OSError) else None
        _log.error(
            "metrics and health are not served",
            address=address,
            reason=os.strerror(number) if number else "no such address",
            hint="free the port or set another address, then restart; an empty one switches it off",
        )
        yield ""
        return
    server = _Server(listener, pages)
    thread = threading.Thread(target=server.run, name="listener", daemon=True)
    thread.start()
    try:
        host, port = listener.getsockname()[:2]
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        server.stop()
        thread.join(REQUEST_SECONDS_MAX)


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, int(port)))
        # From here on connections wait, whenever the thread gets going.
        listener.listen(_BACKLOG)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


_TURNS = 10


class _Server:
    """An event loop in one thread: a caller that reads or writes slowly holds up nobody."""

    def __init__(self, listener: socket.socket, pages: Mapping[str, Page]) -> None:
        self._listener = listener
        self._pages = pages
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._accepted, sock=self._listener, limit=HEAD_BYTES_MAX
        )
        await self._stopping.wait()
        # A connection that was accepted just now becomes a task some turns of the loop later,
        # if its server is not closed by then, and one that is closed is gone some turns later.
        self._loop.remove_reader(self._listener)
        await self._turn()
        server.close()
        for task in self._tasks:
            task.cancel()
        await self._turn()

    async def _turn(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connected(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is cancelled before it has begun would close nothing.
        task.add_done_callback(lambda _: writer.close())

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    await self._answer_one(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            # The caller is slow or has gone; there is nobody to tell.
            pass
        finally:
            self._open -= 1

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(_HEAD_END)
        except asyncio.LimitOverrunError:
            answer, method = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), ""
        else:
            method, target = _request_line(head)
            answer = self._answer(method, target)
        writer.write(_encoded(answer, with_body=method != "HEAD"))
        writer.write_eof()
        await writer.drain()
        # Closing with unread bytes would take the answer back before it is read.
        while await reader.read(HEAD_BYTES_MAX):
            pass

    def _answer(self, method: str, target: str) -> Answer:
        path, _, query = target.partition("?")
        if not method:
            return _refusal(HTTPStatus.BAD_REQUEST)
        if method not in _READING_METHODS:
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(path)
        if page is None:
            return _refusal(HTTPStatus.NOT_FOUND)
        try:
            return page(query)
        except Exception:  # noqa: BLE001 - the last resort: the next request may succeed.
            _log.exception("a page failed unexpectedly", page=path)
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)


def _request_line(head: bytes) -> tuple[str, str]:
    """Return method and target (RFC 9112, 3), both empty for what is no HTTP/1 request."""
    match head.partition(b"\r\n")[0].decode("latin-1").split(" "):
        case [method, target, "HTTP/1.0" | "HTTP/1.1"] if target.startswith("/"):
            return method, target
        case _:
            return "", ""


def _refusal(status: HTTPStatus) -> Answer:
    return Answer(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8")


def _encoded(answer: Answer, *, with_body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode() + _HEAD_END
    return head + answer.body if with_body else head
