"""One connection: uvicorn's HTTP/1.1 with limits, deadlines and one form of error.

Left alone, uvicorn collects headers of any size for any time, answers in plain text
what it cannot parse, even in the middle of another answer, and hands trailers to the
application as headers. All that is refused here is refused before anybody is known, so
it must cost little, whoever sends it.
"""

from __future__ import annotations

import asyncio
import math
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from keyrest import rejections
from keyrest.last_resort import answer
from keyrest.limits import Limits
from keyrest.outlet import Outlet
from keyrest.rejections import RejectedError, Rejection
from keyrest.socket_queues import has_unread, is_delivered

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

_log = structlog.get_logger(__name__)

_UNSENT_BYTES_MAX = 64 * 1024

_SECOND_LOOK_SECONDS = 1.0
"""How long something unread may keep an overdue connection open; the loop reads a request
long before."""

_AFTER_TARGET = len(" ") + len(" HTTP/1.1")
_AROUND_HEADER = len(": ") + len("\r\n")


class _Phase(Enum):
    """What the client is to send next."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class Connection(HttpToolsProtocol):
    """One client's connection after its TLS handshake.

    Attributes:
        generation: which set of client certificates the connection was let in by.
        moved_at: the loop's time when bytes or an answer passed last.
        is_new: whether no request has come yet.
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        *,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        generation: int = 0,
    ) -> None:
        """Serve ``config.app``; the connection lists itself in ``state``."""
        super().__init__(config, state, {}, loop)
        self.generation = generation
        self.moved_at = loop.time()
        self.is_new = True
        self._limits = limits
        self._phase = _Phase.IDLE
        self._deadline = math.inf
        self._stalled_at = math.inf
        self._header_count = 0
        self._header_bytes = 0
        self._head_bytes = 0
        self._hosts = 0
        self._body_moved = False
        self._running: RequestResponseCycle | None = None
        self._keeps_alive = True
        self._retiring = False
        self._ended = False

    # What the server asks.

    @property
    def is_busy(self) -> bool:
        """Whether a request arrives or is being answered."""
        return self._running is not None or self._phase is not _Phase.IDLE

    def retire(self) -> None:
        """Make the next answer the last one, and say so in it.

        An answer that has begun promised to keep the connection; it is kept, since
        the client may send its next request at any moment.
        """
        self._retiring = True
        last = self._last_cycle()
        if last is not None and not last.response_started:
            last.keep_alive = False

    def check(self, now: float) -> None:
        """End the connection if the client lets it wait for too long."""
        if self._is_stalled(now):
            self.transport.abort()
        elif self.transport.is_closing() or now < self._deadline:
            return
        elif self._phase is not _Phase.IDLE:
            self._reject(rejections.LATE)
        elif now < self._deadline + _SECOND_LOOK_SECONDS:
            self.leave()
        else:
            # Empty lines without end are no request either.
            self.transport.close()

    def leave(self) -> None:
        """Close an idle connection, unless the next request has just arrived."""
        if not has_unread(self.transport):
            self.transport.close()

    def abandon(self) -> None:
        """Cut the connection, and let the application know before it is cancelled."""
        if self._running is not None:
            _disconnect(self._running)
        self.transport.abort()

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self.moved_at = self.loop.time()
        # The default lets half a megabyte wait before anybody calls it stalled.
        transport.set_write_buffer_limits(_UNSENT_BYTES_MAX)
        self._enter(_Phase.IDLE, self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that nobody waits for its answer."""
        super().connection_lost(exc)
        if self._running is not None:
            _disconnect(self._running)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; replaces uvicorn's, which answers faults in plain text."""
        self.moved_at = self.loop.time()
        if self._ended:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._reject(
                cause.rejection if isinstance(cause, RejectedError) else rejections.MALFORMED
            )
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reject(rejections.MALFORMED)
        else:
            self._bound_head(len(data))

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._stalled_at = self.loop.time()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        self._stalled_at = math.inf

    # What the parser tells.

    def on_message_begin(self) -> None:
        """Start counting, or end a connection that sends ahead without measure."""
        if len(self.pipeline) >= self._limits.pipelined_max:
            raise RejectedError(rejections.MALFORMED)
        super().on_message_begin()
        self.is_new = False
        self._header_count = self._header_bytes = self._head_bytes = self._hosts = 0
        self._enter(_Phase.HEAD, self._limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        super().on_url(url)
        line_bytes = len(self.parser.get_method()) + len(self.url) + _AFTER_TARGET
        if line_bytes > self._limits.request_line_bytes_max:
            raise RejectedError(rejections.LONG_LINE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer only counts, because its sender may not be trusted."""
        self._header_count += 1
        self._header_bytes += len(name) + len(value) + _AROUND_HEADER
        if (
            self._header_count > self._limits.headers_max
            or self._header_bytes > self._limits.header_bytes_max
        ):
            raise RejectedError(rejections.LARGE_HEAD)
        if self._phase is _Phase.HEAD:
            super().on_header(name, value)
            self._check_header(*self.headers[-1])

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise RejectedError(rejections.VERSION)
        if self.parser.should_upgrade():
            raise RejectedError(rejections.UPGRADE)
        if self._hosts != 1 and (version == "1.1" or self._hosts > 1):
            raise RejectedError(rejections.HOSTLESS)
        super().on_headers_complete()
        self.cycle.transport = Outlet(self.cycle, self.transport)  # type: ignore[assignment]
        self._enter(_Phase.BODY, self._limits.body_seconds)
        # An answer that begins before the body has come must end the connection: what
        # of the body arrives later would be taken for the next request.
        self._keeps_alive = self.cycle.keep_alive
        self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Let the connection live on; from here the server has all the time it needs."""
        super().on_message_complete()
        self._enter(_Phase.IDLE, math.inf)
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive and not self._retiring

    def on_response_complete(self) -> None:
        """Turn to the next request; replaces uvicorn's, which sets a timer each time."""
        self.server_state.total_requests += 1
        if self._running is not None:
            self._running.transport.flush()  # type: ignore[attr-defined]
        self._running = None
        self.moved_at = self.loop.time()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._phase is _Phase.IDLE:
            self._enter(_Phase.IDLE, self._limits.idle_seconds)

    # How it goes on.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(answer, app, cycle))

    def _is_stalled(self, now: float) -> bool:
        """Tell whether the client reads so little that its answers pile up here.

        The transport notices that only when more is written to it, so an answer of
        one piece is looked for in the kernel.
        """
        seconds = self._limits.write_seconds
        if now - self._stalled_at > seconds:
            return True
        is_over = self._running is None and now - self.moved_at > seconds
        return is_over and not is_delivered(self.transport)

    def _enter(self, phase: _Phase, seconds: float) -> None:
        self._phase = phase
        self._deadline = self.loop.time() + seconds

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding":
            # HTTP/1.0 has none, and who sends one to it wants two servers to disagree.
            if self.parser.get_http_version() != "1.1":
                raise RejectedError(rejections.MALFORMED)
            if value.lower() != b"chunked":
                raise RejectedError(rejections.CODING)

    def _bound_head(self, fed: int) -> None:
        """Refuse a header or trailer that never ends: the parser keeps it and tells nothing.

        A chunk's length and extensions count too; the body moves on before they are many.
        """
        if self._phase is _Phase.IDLE:
            return
        self._head_bytes = 0 if self._body_moved else self._head_bytes + fed
        self._body_moved = False
        if self._head_bytes > self._limits.request_line_bytes_max + self._limits.header_bytes_max:
            self._reject(rejections.LARGE_HEAD)

    def _reject(self, rejection: Rejection) -> None:
        """Read no further, and answer unless an answer to an earlier request comes first."""
        self._ended = True
        self._deadline = math.inf
        if self._phase is _Phase.BODY and self.pipeline:
            self.pipeline.popleft()
        last = self._last_cycle()
        if last is not None and (self._phase is not _Phase.BODY or last is not self.cycle):
            last.keep_alive = False
            return
        if last is None or not last.response_started:
            self._write(rejection)
        if last is not None:
            _disconnect(last)
        self.transport.close()

    def _write(self, rejection: Rejection) -> None:
        _log.debug("rejected", status=rejection.status, why=rejection.message, client=self.client)
        headers = [*self.server_state.default_headers, *rejection.headers]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        head = STATUS_LINE[rejection.status] + lines + b"\r\n"
        self.transport.write(head + rejection.body)

    def _last_cycle(self) -> RequestResponseCycle | None:
        return self.pipeline[0][0] if self.pipeline else self._running


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
