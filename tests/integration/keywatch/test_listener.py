"""The HTTP listener: any caller gets an answer or is let go, and nobody holds up another."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs

from keywatch import listener
from keywatch.listener import (
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    REQUEST_SECONDS_MAX,
    Answer,
    listening,
)
from testbed.loopback import HOST, free_port, request
from testbed.waiting import wait_until

PLANTED = "planted-in-a-request"


def told(query: str) -> Answer:
    return Answer(HTTPStatus.OK, f"told {query}".encode(), "text/plain")


def broken(_query: str) -> Answer:
    raise ValueError(PLANTED)


@pytest.fixture
def address() -> Iterator[str]:
    """Where a listener with two pages is."""
    with listening(f"{HOST}:0", {"/page": told, "/broken": broken}) as where:
        yield where


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def sent(address: str, data: bytes) -> bytes:
    """Send raw bytes and return all that comes back."""
    with closing(connected(address)) as connection:
        connection.sendall(data)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer


def test_a_page_is_found_by_its_path_and_told_the_query(address: str) -> None:
    assert request(f"http://{address}/page?verbose") == (200, b"told verbose")


def test_head_gets_the_same_head_and_no_body(address: str) -> None:
    got = sent(address, b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    head = sent(address, b"HEAD /page HTTP/1.1\r\nHost: x\r\n\r\n")

    assert got == head + b"told "
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 5\r\n" in head


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET /nowhere HTTP/1.1\r\n\r\n", 404, id="unknown path"),
        pytest.param(b"GET /pag%65 HTTP/1.1\r\n\r\n", 404, id="encoded path"),
        pytest.param(b"POST /page HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405, id="post"),
        pytest.param(b"DELETE /page HTTP/1.1\r\n\r\n", 405, id="delete"),
        pytest.param(b"GET /page\r\n\r\n", 400, id="no version"),
        pytest.param(b"GET /page HTTP/2.0\r\n\r\n", 400, id="wrong version"),
        pytest.param(b"GET http://x/page HTTP/1.1\r\n\r\n", 400, id="proxy request"),
        pytest.param(b"\x16\x03\x01\x02\x00\xff\r\n\r\n", 400, id="TLS"),
        pytest.param(b"\r\n\r\n", 400, id="nothing"),
        pytest.param(b"GET /page HTTP/1.1\r\nA: " + b"x" * HEAD_BYTES_MAX * 3, 431, id="long"),
    ],
)
def test_what_is_no_readable_request_for_a_page_is_refused(
    address: str, data: bytes, status: int
) -> None:
    answer = sent(address, data)

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"told" not in answer


def test_a_refused_method_is_told_which_ones_there_are(address: str) -> None:
    assert b"\r\nAllow: GET, HEAD\r\n" in sent(address, b"PUT /page HTTP/1.1\r\n\r\n")


def test_a_body_is_passed_over_and_does_not_cost_the_answer(address: str) -> None:
    body = bytes(4 * 1024 * 1024)

    answer = sent(address, b"GET /page HTTP/1.1\r\nContent-Length: 4194304\r\n\r\n" + body)

    assert answer.endswith(b"\r\n\r\ntold ")


def test_a_page_that_fails_shows_nothing_of_it_and_the_next_request_is_answered(
    address: str,
) -> None:
    with capture_logs() as logs:
        status, body = request(f"http://{address}/broken?{PLANTED}")

    assert (status, body) == (500, b"Internal Server Error\n")
    assert [line["page"] for line in logs] == ["/broken"]
    assert request(f"http://{address}/page")[0] == 200


def test_nothing_of_a_request_is_logged_or_sent_back(address: str) -> None:
    with capture_logs() as logs:
        answers = [
            sent(address, f"GET /{PLANTED} HTTP/1.1\r\nX: {PLANTED}\r\n\r\n".encode()),
            sent(address, f"{PLANTED} /page HTTP/1.1\r\n\r\n".encode()),
            sent(address, f"{PLANTED}\r\n\r\n".encode()),
        ]

    assert PLANTED not in str(logs)
    assert all(PLANTED.encode() not in answer for answer in answers)


def test_a_caller_that_never_finishes_its_request_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS_MAX", 0.3)
    with listening(f"{HOST}:0", {}) as address, closing(connected(address)) as slow:
        slow.sendall(b"GET /page")

        assert received(slow) == b""


def test_slow_callers_do_not_hold_up_others(address: str) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX - 2):
            slow = stack.enter_context(closing(connected(address)))
            slow.sendall(b"GET /page")

        assert request(f"http://{address}/page")[0] == 200


def test_callers_beyond_the_bound_are_closed_and_there_is_room_when_others_leave(
    address: str,
) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            stack.enter_context(closing(connected(address)))

        with closing(connected(address)) as refused:
            # At once, and not when the time for a request is over.
            refused.settimeout(REQUEST_SECONDS_MAX / 2)
            assert received(refused) == b""

    wait_until(lambda: answers(address), what="an answer", within_seconds=20)


def answers(address: str) -> bool:
    try:
        return request(f"http://{address}/page")[0] == 200
    except OSError:
        return False


def test_two_listeners_share_an_address_and_one_goes_on_when_the_other_stops() -> None:
    address = f"{HOST}:{free_port()}"
    with listening(address, {"/page": told}) as first:
        with listening(address, {"/page": told}) as second:
            assert first == second == address

        assert all(request(f"http://{address}/page")[0] == 200 for _ in range(20))


def test_an_address_that_cannot_be_had_is_logged_with_what_to_do() -> None:
    with closing(socket.create_server((HOST, 0))) as other:
        taken = f"{HOST}:{other.getsockname()[1]}"
        with capture_logs() as logs, listening(taken, {"/page": told}) as address:
            assert address == ""

    (line,) = logs
    assert (line["log_level"], line["address"]) == ("error", taken)
    assert line["reason"] == "Address already in use"
    assert "free the port" in line["hint"]


def test_a_port_beyond_the_last_one_is_logged_as_well() -> None:
    """As the last ones of many workers may have it."""
    with capture_logs() as logs, listening(f"{HOST}:65536", {"/page": told}) as address:
        assert address == ""

    assert [line["reason"] for line in logs] == ["no such address"]


def test_nothing_is_left_when_it_stops() -> None:
    before = threading.active_count()
    with listening(f"{HOST}:0", {"/page": told}) as address, closing(connected(address)):
        assert threading.active_count() == before + 1

    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        connected(address)


def test_a_connection_that_has_just_come_is_closed_too_when_it_stops() -> None:
    for _ in range(20):
        with listening(f"{HOST}:0", {}) as address:
            connection = connected(address)
        with closing(connection), suppress(ConnectionError):
            assert received(connection) == b""


def test_it_listens_on_ipv6_as_well() -> None:
    with listening("[::1]:0", {"/page": told}) as address:
        assert address.startswith("[::1]:")
        assert request(f"http://{address}/page")[0] == 200
