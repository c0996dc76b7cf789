"""One connection, fed byte by byte: limits, deadlines, and how it ends.

What clients see of malformed requests is in the integration tests of the transport;
here is what depends on time, and on what has arrived when.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs
from uvicorn import Config
from uvicorn.server import ServerState

from keyrest.limits import Limits
from keyrest.protocol import Connection

GET = b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: kms\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: kms\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = Limits(pipelined_max=2)


class MemoryTransport(asyncio.Transport):
    """Keeps what is written, and how the connection ended.

    Attributes:
        client: the other end of a socket that stands for the connection in the kernel.
    """

    def __init__(self) -> None:
        ours, self.client = socket.socketpair()
        super().__init__({"socket": ours})
        self._ours = ours
        self.written = b""
        self.writes = 0
        self.end = ""
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.end
        self.written += bytes(data)
        self.writes += 1

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def is_closing(self) -> bool:
        return bool(self.end)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert low is None
        self.unsent_bytes_max = high

    def forget(self) -> None:
        self._ours.close()
        self.client.close()


class Application:
    """Answers what each test wants, when it wants; remembers what it was given."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.behaviour: Callable[[Any, Any], Awaitable[None]] = self.answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await self.behaviour(receive, send)

    async def answer(self, receive: Any, send: Any) -> None:
        await self.read(receive)
        await self.may_answer.wait()
        await self.respond(send)

    async def answer_unread(self, _: Any, send: Any) -> None:
        await self.respond(send)

    async def read(self, receive: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client has gone")
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)

    async def respond(self, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


class Wire:
    """A connection whose client is the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop, app: Application) -> None:
        self._loop = loop
        config = Config(
            app, ws="none", lifespan="off", interface="asgi3", log_config=None, proxy_headers=False
        )
        config.load()
        self.state = ServerState()
        self.transport = MemoryTransport()
        self.connection = Connection(config, self.state, limits=LIMITS, loop=loop)
        self.connection.connection_made(self.transport)

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            if not self.transport.end:
                self.connection.data_received(part)
                self.settle()

    def settle(self) -> None:
        """Let everything happen that waits for nothing from outside."""
        for _ in range(10):
            self._loop.run_until_complete(asyncio.sleep(0))

    def check_after(self, seconds: float) -> None:
        """Look for overdue connections as the server will do after some seconds."""
        self.connection.check(self._loop.time() + seconds)
        self.settle()

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", self.transport.written)]

    @property
    def says_close(self) -> bool:
        return b"connection: close" in self.transport.written.lower()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture
def app(loop: asyncio.AbstractEventLoop) -> Application:
    return Application()


@pytest.fixture
def wire(loop: asyncio.AbstractEventLoop, app: Application) -> Iterator[Wire]:
    wire = Wire(loop, app)
    yield wire
    wire.transport.forget()


# --- deadlines ----------------------------------------------------------------


def test_a_connection_that_sends_nothing_is_closed_without_a_word(wire: Wire) -> None:
    wire.check_after(LIMITS.head_seconds - 0.1)
    assert not wire.transport.end

    wire.check_after(LIMITS.head_seconds + 0.1)
    assert wire.transport.end == "closed"
    assert wire.transport.written == b""


def test_empty_lines_do_not_prolong_the_wait_for_a_request(wire: Wire) -> None:
    wire.feed(b"\r\n", b"\r\n")

    wire.check_after(LIMITS.head_seconds + 0.1)

    assert wire.transport.end == "closed"


def test_headers_that_do_not_end_in_time_are_answered_with_408(wire: Wire) -> None:
    wire.feed(GET[:-2])

    wire.check_after(LIMITS.head_seconds + 0.1)

    assert wire.statuses == [408]
    assert wire.transport.end == "closed"


def test_a_body_that_does_not_end_in_time_is_answered_with_408(
    wire: Wire, app: Application
) -> None:
    wire.feed(POST, b"ab")

    wire.check_after(LIMITS.body_seconds - 0.1)
    assert wire.statuses == []

    with capture_logs() as logs:
        wire.check_after(LIMITS.body_seconds + 0.1)
    assert wire.statuses == [408]
    assert wire.transport.end == "closed"
    assert app.bodies == []
    assert [line for line in logs if line["log_level"] == "error"] == []


def test_an_answer_may_take_as_long_as_it_takes(wire: Wire, app: Application) -> None:
    app.may_answer.clear()
    wire.feed(POST, b"abcd")

    wire.check_after(100 * LIMITS.body_seconds)
    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200]
    assert not wire.transport.end


def test_an_idle_connection_is_kept_for_the_next_request_and_closed_when_none_comes(
    wire: Wire,
) -> None:
    wire.feed(GET)

    wire.check_after(LIMITS.idle_seconds - 0.1)
    assert not wire.transport.end

    wire.check_after(LIMITS.idle_seconds + 0.1)
    assert wire.transport.end == "closed"
    assert wire.statuses == [200]


def test_an_idle_connection_on_which_a_request_has_just_come_is_not_closed(wire: Wire) -> None:
    """It lies in the kernel, and the loop will read it in a moment."""
    wire.feed(GET)
    wire.transport.client.send(b"G")

    wire.check_after(LIMITS.idle_seconds + 0.1)
    wire.connection.leave()

    assert not wire.transport.end


def test_what_is_never_read_does_not_keep_a_connection_for_ever(wire: Wire) -> None:
    wire.feed(GET)
    wire.transport.client.send(b"\r\n")

    wire.check_after(LIMITS.idle_seconds + 1.1)

    assert wire.transport.end == "closed"


def test_an_answer_that_was_left_unread_for_too_long_ends_the_connection(wire: Wire) -> None:
    wire.feed(GET)
    wire.transport.get_extra_info("socket").send(b"unread")

    wire.check_after(LIMITS.write_seconds - 0.1)
    assert not wire.transport.end

    wire.check_after(LIMITS.write_seconds + 0.1)
    assert wire.transport.end == "aborted"


def test_an_unread_answer_is_no_fault_while_the_next_one_is_prepared(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET)
    wire.transport.get_extra_info("socket").send(b"unread")

    wire.check_after(LIMITS.write_seconds + 0.1)

    assert not wire.transport.end


def test_a_client_that_does_not_read_is_cut_off(wire: Wire) -> None:
    wire.feed(GET)
    wire.connection.pause_writing()

    wire.check_after(LIMITS.write_seconds - 0.1)
    assert not wire.transport.end

    wire.check_after(LIMITS.write_seconds + 0.1)
    assert wire.transport.end == "aborted"


def test_a_client_that_reads_again_is_not_cut_off(wire: Wire) -> None:
    wire.feed(GET)
    wire.connection.pause_writing()
    wire.connection.resume_writing()

    wire.check_after(LIMITS.write_seconds + 0.1)

    assert not wire.transport.end


def test_a_client_that_does_not_read_is_cut_off_even_while_the_connection_closes(
    wire: Wire,
) -> None:
    wire.feed(GET)
    wire.connection.pause_writing()
    wire.transport.close()

    wire.check_after(LIMITS.write_seconds + 0.1)

    assert wire.transport.end == "aborted"


def test_little_may_wait_unsent_before_a_client_counts_as_not_reading(wire: Wire) -> None:
    assert wire.transport.unsent_bytes_max == 64 * 1024


# --- how much is kept ---------------------------------------------------------


def test_a_header_that_never_ends_is_refused_while_it_arrives(wire: Wire) -> None:
    wire.feed(b"GET / HTTP/1.1\r\nX: ", *[b"a" * 4096] * 100)

    assert wire.statuses == [431]
    assert wire.transport.end == "closed"


def test_many_requests_on_one_connection_do_not_add_up(wire: Wire) -> None:
    long = GET[:-2] + b"X: " + b"a" * 30_000 + b"\r\n\r\n"

    wire.feed(*[long[:1000], long[1000:]] * 5)

    assert wire.statuses == [200] * 5


def test_reading_pauses_while_the_application_does_not_take_the_body(
    wire: Wire, app: Application
) -> None:
    gate = app.may_answer
    gate.clear()

    async def read_late(receive: Any, send: Any) -> None:
        await gate.wait()
        await app.read(receive)
        await app.respond(send)

    app.behaviour = read_late
    wire.feed(CHUNKED, b"20000\r\n" + b"a" * 0x20000 + b"\r\n")
    assert wire.transport.paused

    gate.set()
    wire.settle()
    assert not wire.transport.paused
    wire.feed(b"0\r\n\r\n")
    assert app.bodies == [b"a" * 0x20000]


def test_requests_ahead_of_their_answers_are_answered_in_order(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET + POST + b"abcd")
    assert wire.statuses == []

    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200, 200]
    assert app.bodies == [b"", b"abcd"]
    assert not wire.transport.end


def test_reading_goes_on_after_requests_that_were_sent_ahead(wire: Wire, app: Application) -> None:
    app.behaviour = app.answer_unread
    wire.feed(GET + GET)

    assert wire.statuses == [200, 200]
    assert not wire.transport.paused


def test_more_requests_ahead_than_allowed_end_the_connection_after_the_answers(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET * 20)
    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200] * (1 + LIMITS.pipelined_max)
    assert wire.says_close
    assert wire.transport.end == "closed"


# --- faults in the middle of something ----------------------------------------


@pytest.mark.parametrize(
    "fault", [b"nonsense\r\n\r\n", CHUNKED + b"zz\r\n"], ids=["in a head", "in a body"]
)
def test_a_fault_behind_a_request_is_no_answer_to_that_request(
    wire: Wire, app: Application, fault: bytes
) -> None:
    app.may_answer.clear()
    wire.feed(GET, fault)
    assert wire.transport.written == b""

    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200]
    assert wire.says_close
    assert wire.transport.end == "closed"


def test_a_request_that_comes_too_slowly_behind_another_is_no_answer_to_that(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET, b"GET / HTTP/1.1\r\n")

    for _ in range(3):
        wire.check_after(LIMITS.head_seconds + 0.1)
    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200]
    assert wire.transport.end == "closed"


def test_a_body_that_comes_too_slowly_costs_no_request_before_it(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET + GET + POST)

    for _ in range(3):
        wire.check_after(LIMITS.body_seconds + 0.1)
    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200, 200]
    assert wire.transport.end == "closed"


def test_a_fault_in_a_body_is_the_answer_and_the_application_hears_that_nobody_waits(
    wire: Wire, app: Application
) -> None:
    with capture_logs() as logs:
        wire.feed(CHUNKED, b"4\r\nabcd\r\n", b"zz\r\n")

    assert wire.statuses == [400]
    assert app.bodies == []
    assert not wire.state.tasks
    assert [line for line in logs if line["log_level"] == "error"] == []


def test_a_fault_in_a_body_after_the_answer_began_only_ends_the_connection(
    wire: Wire, app: Application
) -> None:
    gate = app.may_answer
    gate.clear()

    async def begin(receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await gate.wait()

    app.behaviour = begin
    wire.feed(CHUNKED, b"zz\r\n")

    assert wire.statuses == [200]
    assert wire.transport.end == "closed"
    gate.set()
    wire.settle()


def test_nothing_is_read_after_a_fault(wire: Wire, app: Application) -> None:
    wire.connection.data_received(b"nonsense\r\n\r\n")
    wire.connection.data_received(GET)
    wire.settle()

    assert wire.statuses == [400]
    assert app.scopes == []


def test_trailers_are_not_handed_to_the_application(wire: Wire, app: Application) -> None:
    wire.feed(CHUNKED, b"4\r\nabcd\r\n0\r\nAuthorization: Bearer forged\r\n\r\n")

    assert wire.statuses == [200]
    assert b"authorization" not in dict(app.scopes[0]["headers"])


def test_a_trailer_that_never_ends_is_refused_while_it_arrives(wire: Wire) -> None:
    """The parser keeps what has come of it, and copies all of it for each piece."""
    wire.feed(CHUNKED + b"4\r\nbody\r\n0\r\nX: ")
    for _ in range(11):
        wire.feed(b"a" * 4096)

    assert wire.transport.written.startswith(b"HTTP/1.1 431 ")
    assert wire.transport.end


def test_a_chunk_extension_that_never_ends_is_refused_while_it_arrives(wire: Wire) -> None:
    wire.feed(CHUNKED + b"4;x=")
    for _ in range(11):
        wire.feed(b"a" * 4096)

    assert wire.transport.end


def test_a_body_of_many_small_chunks_is_no_trailer(wire: Wire) -> None:
    wire.feed(CHUNKED)
    for _ in range(200):
        wire.feed(b"1\r\nx\r\n" * 100)

    assert not wire.transport.end


def test_trailers_count_as_headers(wire: Wire) -> None:
    wire.feed(CHUNKED, b"0\r\n" + b"X: y\r\n" * 100 + b"\r\n")

    assert wire.statuses == [431]


# --- answers that come early --------------------------------------------------


def test_an_answer_before_the_body_has_come_ends_the_connection(
    wire: Wire, app: Application
) -> None:
    app.behaviour = app.answer_unread

    wire.feed(POST, b"ab")

    assert wire.statuses == [200]
    assert wire.says_close
    assert wire.transport.end == "closed"


def test_an_unread_body_that_has_come_does_not_end_the_connection(
    wire: Wire, app: Application
) -> None:
    app.behaviour = app.answer_unread

    wire.feed(POST + b"abcd", GET)

    assert wire.statuses == [200, 200]
    assert not wire.says_close


def test_a_body_that_is_asked_for_is_sent_100_first(wire: Wire, app: Application) -> None:
    wire.feed(POST[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert wire.statuses == [100]

    wire.feed(b"abcd")

    assert wire.statuses == [100, 200]
    assert app.bodies == [b"abcd"]


def test_a_body_that_is_not_asked_for_ends_the_connection(wire: Wire, app: Application) -> None:
    """The client will not send it, so whatever comes next would be taken for it."""
    app.behaviour = app.answer_unread

    wire.feed(POST[:-2] + b"Expect: 100-continue\r\n\r\n")

    assert wire.statuses == [200]
    assert wire.says_close
    assert wire.transport.end == "closed"


# --- one piece ---------------------------------------------------------------------


def test_head_and_body_of_an_answer_leave_in_one_piece(wire: Wire) -> None:
    wire.feed(GET)

    assert wire.statuses == [200]
    assert wire.transport.writes == 1


@pytest.mark.parametrize("method", [b"HEAD", b"DELETE"], ids=["HEAD", "204"])
def test_a_head_without_a_body_leaves_too(wire: Wire, app: Application, method: bytes) -> None:
    async def answer_nothing(_: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    if method == b"DELETE":
        app.behaviour = answer_nothing
    wire.feed(GET.replace(b"GET", method))

    assert wire.statuses == [204 if method == b"DELETE" else 200]
    assert wire.transport.written.endswith(b"\r\n\r\n")


def test_a_head_without_a_body_leaves_before_the_connection_is_closed(wire: Wire) -> None:
    wire.feed(b"HEAD / HTTP/1.0\r\n\r\n")

    assert wire.statuses == [200]
    assert wire.transport.end == "closed"


def test_the_pieces_of_a_long_answer_leave_as_they_come(wire: Wire, app: Application) -> None:
    async def answer_in_pieces(_: Any, send: Any) -> None:
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece, more in ((b"a", True), (b"b", True), (b"c", False)):
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    app.behaviour = answer_in_pieces
    wire.feed(GET)

    assert wire.transport.written.endswith(b"\r\n\r\nabc")
    assert wire.transport.writes == 3


# --- faults of the application ------------------------------------------------


def test_an_exception_of_the_application_is_one_fixed_answer(wire: Wire, app: Application) -> None:
    async def fail(receive: Any, send: Any) -> None:
        raise ValueError("0123456789abcdef")

    app.behaviour = fail
    with capture_logs() as logs:
        wire.feed(GET)

    assert wire.statuses == [500]
    assert b"0123456789abcdef" not in wire.transport.written
    document = orjson.loads(wire.transport.written.split(b"\r\n\r\n")[1])
    assert document["resources"][0]["reasons"][0]["code"] == "INTERNAL_ERR"
    assert [line["event"] for line in logs] == ["a request failed unexpectedly"]


def test_an_application_that_answers_nothing_has_failed(wire: Wire, app: Application) -> None:
    async def do_nothing(receive: Any, send: Any) -> None: ...

    app.behaviour = do_nothing
    wire.feed(GET)

    assert wire.statuses == [500]


def test_half_an_answer_ends_the_connection(wire: Wire, app: Application) -> None:
    async def answer_half(receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})

    app.behaviour = answer_half
    wire.feed(GET)

    assert wire.statuses == [200]
    assert wire.transport.end == "closed"


def test_the_end_of_a_client_is_no_fault(wire: Wire, app: Application) -> None:
    with capture_logs() as logs:
        wire.feed(POST, b"ab")
        wire.transport.close()
        wire.connection.connection_lost(None)
        wire.settle()

    assert wire.statuses == []
    assert logs == []
    assert not wire.state.tasks
    assert not wire.state.connections


def test_the_first_of_two_requests_hears_of_the_end_of_the_client(
    wire: Wire, app: Application
) -> None:
    async def wait_for_the_end(receive: Any, _: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    app.behaviour = wait_for_the_end
    wire.feed(GET + GET)
    wire.transport.close()

    wire.connection.connection_lost(None)
    wire.settle()

    assert not wire.state.tasks


# --- the last answer of a connection ------------------------------------------


def test_a_retired_connection_says_so_in_its_next_answer(wire: Wire) -> None:
    wire.connection.retire()
    assert not wire.transport.end

    wire.feed(POST + b"abcd")

    assert wire.statuses == [200]
    assert wire.says_close
    assert wire.transport.end == "closed"


def test_an_answer_under_way_is_the_last_one_of_a_retired_connection(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET)

    wire.connection.retire()
    app.may_answer.set()
    wire.settle()

    assert wire.says_close
    assert wire.transport.end == "closed"


def test_an_answer_that_has_begun_keeps_its_promise_to_a_retired_connection(
    wire: Wire, app: Application
) -> None:
    """It said that the connection stays, so the next request may be under way."""

    async def answer_slowly(receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await app.may_answer.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    app.behaviour = answer_slowly
    app.may_answer.clear()
    wire.feed(GET)
    wire.connection.retire()
    app.may_answer.set()
    wire.settle()
    assert not wire.transport.end

    wire.feed(GET)

    assert wire.statuses == [200, 200]
    assert wire.says_close
    assert wire.transport.end == "closed"


def test_requests_sent_ahead_are_all_answered_by_a_retired_connection(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    wire.feed(GET + GET)

    wire.connection.retire()
    app.may_answer.set()
    wire.settle()

    assert wire.statuses == [200, 200]
    assert wire.transport.end == "closed"


def test_a_connection_is_busy_from_a_requests_first_byte_to_its_answers_last(
    wire: Wire, app: Application
) -> None:
    app.may_answer.clear()
    seen = [wire.connection.is_busy]
    for part in (GET[:5], GET[5:]):
        wire.feed(part)
        seen.append(wire.connection.is_busy)
    app.may_answer.set()
    wire.settle()

    assert [*seen, wire.connection.is_busy] == [False, True, True, False]


def test_a_closed_connection_is_overdue_for_nothing(wire: Wire) -> None:
    wire.feed(GET[:5])
    wire.transport.close()

    wire.check_after(math.inf)

    assert wire.statuses == []
