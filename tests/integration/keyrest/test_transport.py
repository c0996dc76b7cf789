"""What clients of the REST face see of its HTTP: well formed or not, over real TLS."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from keyrest.limits import Limits
from testbed.authority import Authority
from testbed.loopback import HOST
from testbed.waiting import wait_until
from tests.integration.keyrest.raw_client import HOST_LINE, RawClient, get, post
from tests.integration.keyrest.served_app import OwnTls, ServedApp, SmallApp

LIMITS = Limits(
    handshake_seconds=0.4, head_seconds=0.4, body_seconds=0.6, idle_seconds=0.8, sweep_seconds=0.05
)
"""Short enough to wait for."""

CHUNKED = b"POST / HTTP/1.1\r\nHost: kms\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = b"GET / HTTP/1.1\r\n"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> OwnTls:
    return OwnTls(tmp_path_factory.mktemp("transport"))


@pytest.fixture(scope="module")
def served(tls: OwnTls) -> Iterator[ServedApp]:
    """A server that all tests use which leave it running."""
    with ServedApp(SmallApp(), tls.files) as served:
        yield served


@pytest.fixture
def client(served: ServedApp, tls: OwnTls) -> Iterator[RawClient]:
    with RawClient(served.address, tls.client) as client:
        yield client


@pytest.fixture
def hasty(tls: OwnTls) -> Iterator[ServedApp]:
    """A server that waits for nobody."""
    with ServedApp(SmallApp(), tls.files, LIMITS) as served:
        yield served


# --- requests that are answered ------------------------------------------------------


def test_requests_follow_one_another_on_one_connection(client: RawClient) -> None:
    answers = [client.ask(post(b"abc")), client.ask(get()), client.ask(post(b"a" * 100_000))]

    assert [(answer.status, answer.json["bytes"]) for answer in answers] == [
        (200, 3),
        (200, 0),
        (200, 100_000),
    ]


def test_an_answer_has_a_date_and_does_not_name_the_server(client: RawClient) -> None:
    headers = client.ask(get()).headers

    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
    assert "server" not in headers


def test_chunked_bodies_are_taken(client: RawClient) -> None:
    answer = client.ask(CHUNKED + b"3\r\nabc\r\n4;extension=1\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n")

    assert answer.json["bytes"] == 7


def test_head_has_no_body(client: RawClient) -> None:
    client.send(get(method="HEAD"))
    answer = client.answer(head=True)

    assert answer.status == 200
    assert client.ask(get()).status == 200


def test_http_1_0_is_answered_and_ends_the_connection(client: RawClient) -> None:
    """Load balancers still ask so whether a server lives."""
    answer = client.ask(b"GET / HTTP/1.0\r\n\r\n")

    assert answer.status == 200
    assert answer.is_last
    assert client.has_ended()


def test_requests_sent_ahead_are_answered_in_order(client: RawClient) -> None:
    client.send(post(b"a") + post(b"ab") + post(b"abc"))

    assert [client.answer().json["bytes"] for _ in range(3)] == [1, 2, 3]


def test_a_body_is_asked_for_when_the_client_waits_for_that(client: RawClient) -> None:
    client.send(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))

    assert client.answer().status == 100
    assert client.ask(b"abc").json["bytes"] == 3


def test_an_answer_that_comes_before_a_large_body_reaches_its_client(
    served: ServedApp, tls: OwnTls
) -> None:
    """Closing with unread bytes resets a connection, and takes the answer with it."""
    with RawClient(served.address, tls.client) as client:
        client.send(post(b"a" * 5_000_000, path="/early"))
        answer = client.answer()

    assert answer.status == 413
    assert answer.is_last


# --- requests that are none ------------------------------------------------------------

MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST_LINE + b"\r\n",
    "an unknown method": b"FETCH / HTTP/1.1\r\n" + HOST_LINE + b"\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "line feeds alone": b"GET / HTTP/1.1\nHost: kms\n\n",
    "no host": LINE + b"\r\n",
    "two hosts": LINE + HOST_LINE + HOST_LINE + b"\r\n",
    "NUL in a value": LINE + HOST_LINE + b"X: a\0b\r\n\r\n",
    "NUL in a name": LINE + HOST_LINE + b"X\0: a\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n" + HOST_LINE + b"\r\n",
    "carriage return in a value": LINE + HOST_LINE + b"X: a\rY: b\r\n\r\n",
    "a folded header": LINE + HOST_LINE + b"X: a\r\n b\r\n\r\n",
    "a header without a name": LINE + HOST_LINE + b": a\r\n\r\n",
    "a header without a colon": LINE + HOST_LINE + b"abc\r\n\r\n",
    "a blank before the colon": LINE + HOST_LINE + b"X : a\r\n\r\n",
    "a target that is no path": b"GET a HTTP/1.1\r\n" + HOST_LINE + b"\r\n",
    "bytes beyond ASCII in the target": b"GET /\xff HTTP/1.1\r\n" + HOST_LINE + b"\r\n",
    "a tunnel": b"CONNECT kms:443 HTTP/1.1\r\n" + HOST_LINE + b"\r\n",
    "a websocket": get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a"),
    "HTTP/2 in clear": get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "length and chunks": get("/", "Content-Length: 3", "Transfer-Encoding: chunked"),
    "chunks and length": get("/", "Transfer-Encoding: chunked", "Content-Length: 3"),
    "two lengths": get("/", "Content-Length: 3", "Content-Length: 3"),
    "a list of lengths": get("/", "Content-Length: 3, 3"),
    "a negative length": get("/", "Content-Length: -1"),
    "a length with a sign": get("/", "Content-Length: +1"),
    "an empty length": get("/", "Content-Length: "),
    "an absurd length": get("/", "Content-Length: 99999999999999999999999"),
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": get("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "a chunk that is no number": CHUNKED + b"zz\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n",
    "an absurd chunk": CHUNKED + b"fffffffffffffffff\r\n",
    "a chunk longer than it says": CHUNKED + b"1\r\nabc\r\n",
}

REFUSED = {
    "HTTP/0.9": (505, "HTTP_VERSION_ERR", b"GET /\r\n\r\n"),
    "HTTP/2.0": (505, "HTTP_VERSION_ERR", b"GET / HTTP/2.0\r\n" + HOST_LINE + b"\r\n"),
    "gzip": (501, "NOT_IMPLEMENTED_ERR", get("/", "Transfer-Encoding: gzip, chunked")),
    "identity": (501, "NOT_IMPLEMENTED_ERR", get("/", "Transfer-Encoding: identity")),
    "a request line of 8 KiB and a byte": (
        414,
        "URI_TOO_LONG_ERR",
        get("/" + "a" * (8193 - len("GET / HTTP/1.1"))),
    ),
    "a target without end": (414, "URI_TOO_LONG_ERR", b"GET /" + b"a" * 8200),
    "headers of 32 KiB and a byte": (
        431,
        "HEADERS_TOO_LARGE_ERR",
        get("/", "X: " + "a" * (32 * 1024 + 1 - len("Host: kms\r\nX: \r\n"))),
    ),
    "a header without end": (431, "HEADERS_TOO_LARGE_ERR", LINE + b"X: " + b"a" * 50_000),
    "many long headers": (431, "HEADERS_TOO_LARGE_ERR", get("/", *["X: " + "a" * 996] * 33)),
    "101 headers": (431, "HEADERS_TOO_LARGE_ERR", get("/", *["X: a"] * 100)),
    "many trailers": (
        431,
        "HEADERS_TOO_LARGE_ERR",
        CHUNKED + b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n",
    ),
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_answered_with_400_in_the_contracts_form(
    client: RawClient, request_bytes: bytes
) -> None:
    assert_refused(client, request_bytes, 400, "BAD_REQUEST_ERR")


@pytest.mark.parametrize(("status", "code", "request_bytes"), REFUSED.values(), ids=REFUSED)
def test_what_is_too_much_or_something_else_has_a_status_of_its_own(
    client: RawClient, status: int, code: str, request_bytes: bytes
) -> None:
    assert_refused(client, request_bytes, status, code)


def assert_refused(client: RawClient, request_bytes: bytes, status: int, code: str) -> None:
    answer = client.ask(request_bytes)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/vnd.ibm.kms.error+json"
    assert "date" in answer.headers
    [reason] = answer.json["resources"][0]["reasons"]
    assert (reason["status"], reason["code"]) == (status, code)
    assert answer.is_last
    assert client.has_ended()


LIMIT_CASES = {
    "a request line of 8 KiB": get("/" + "a" * (8192 - len("GET / HTTP/1.1"))),
    "100 headers": get("/", *["X: a"] * 99),
    "headers of 32 KiB": get("/", "X: " + "a" * (32 * 1024 - len("Host: kms\r\nX: \r\n"))),
}


@pytest.mark.parametrize("request_bytes", LIMIT_CASES.values(), ids=LIMIT_CASES)
def test_what_just_keeps_a_limit_is_served(client: RawClient, request_bytes: bytes) -> None:
    assert client.ask(request_bytes).status == 200


# --- clients that are slow, or many ------------------------------------------------------


def test_a_client_that_never_shakes_hands_is_closed(hasty: ServedApp) -> None:
    with socket.create_connection(hasty.address, timeout=10) as silent:
        assert silent.recv(1) == b""


def test_a_client_that_speaks_no_tls_gets_nothing(served: ServedApp) -> None:
    with socket.create_connection(served.address, timeout=10) as plain:
        plain.sendall(get())
        assert plain.recv(1000) == b""


def test_a_client_that_asks_for_nothing_is_closed(hasty: ServedApp, tls: OwnTls) -> None:
    with RawClient(hasty.address, tls.client) as silent:
        assert silent.has_ended()


def test_a_client_that_stops_in_its_headers_is_told_and_closed(
    hasty: ServedApp, tls: OwnTls
) -> None:
    with RawClient(hasty.address, tls.client) as slow:
        assert_refused(slow, LINE + HOST_LINE, 408, "REQUEST_TIMEOUT_ERR")


def test_a_client_that_stops_in_its_body_is_told_and_closed(hasty: ServedApp, tls: OwnTls) -> None:
    with RawClient(hasty.address, tls.client) as slow:
        assert_refused(slow, post(b"abc")[:-1], 408, "REQUEST_TIMEOUT_ERR")


def test_an_idle_connection_is_closed(hasty: ServedApp, tls: OwnTls) -> None:
    with RawClient(hasty.address, tls.client) as idle:
        assert idle.ask(get()).status == 200
        assert idle.has_ended()


def test_a_client_that_does_not_read_is_cut_off(tls: OwnTls) -> None:
    size = 50_000_000
    app = SmallApp()
    limits = Limits(write_seconds=0.3, sweep_seconds=0.05)
    with ServedApp(app, tls.files, limits) as served, RawClient(served.address, tls.client) as lazy:
        lazy.send(get(f"/large?{size}"))
        wait_until(lambda: app.answered == 1, what="the answer", within_seconds=10)
        # The connection is not gone before the server forgets what it could not send.
        wait_until(
            lambda: not served.has_connections, what="the connection ends", within_seconds=10
        )
        with pytest.raises((EOFError, OSError)):
            lazy.answer()


def test_connections_beyond_the_limit_are_closed_and_the_others_stay(tls: OwnTls) -> None:
    limits = Limits(connections_max=2)
    with (
        ServedApp(SmallApp(), tls.files, limits) as served,
        RawClient(served.address, tls.client) as first,
        # It counts although it never shakes hands.
        socket.create_connection(served.address),
    ):
        wait_until(
            lambda: is_turned_away(served, tls), what="a third is turned away", within_seconds=10
        )
        assert first.ask(get()).status == 200


def test_a_place_that_becomes_free_is_given_to_the_next(tls: OwnTls) -> None:
    limits = Limits(connections_max=1)
    with ServedApp(SmallApp(), tls.files, limits) as served:
        with RawClient(served.address, tls.client) as first:
            assert first.ask(get()).status == 200
            assert is_turned_away(served, tls)

        wait_until(
            lambda: not is_turned_away(served, tls), what="the place is free", within_seconds=10
        )


def is_turned_away(served: ServedApp, tls: OwnTls) -> bool:
    try:
        with RawClient(served.address, tls.client) as another:
            return another.ask(get()).status != 200
    except (OSError, EOFError):
        return True


# --- clients that people use ------------------------------------------------------------


def test_httpx_is_served_with_verification(served: ServedApp, tls: OwnTls) -> None:
    with httpx.Client(verify=tls.client, trust_env=False) as client:
        answers = [client.post(f"https://{HOST}:{served.port}/", content=b"abc") for _ in range(3)]

    assert [answer.json()["bytes"] for answer in answers] == [3, 3, 3]


def test_clients_without_a_certificate_stay_outside_where_one_is_required(
    tmp_path: Path,
) -> None:
    """What the files do is tested beside them; here that the server follows them."""
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    site = OwnTls(tmp_path, client_ca=authority.certificate_file)
    alice, bobby = site.client, site.client
    for context, pair in ((alice, authority.client("alice")), (bobby, other.client("bobby"))):
        context.load_cert_chain(pair.certificate, pair.key)

    with ServedApp(SmallApp(), site.files, Limits(sweep_seconds=0.05)) as served:
        with RawClient(served.address, alice) as kept:
            assert kept.ask(get()).status == 200
            for stranger in (site.client, bobby):
                with pytest.raises((OSError, EOFError)), RawClient(served.address, stranger) as raw:
                    raw.ask(get())

            authority.certificate_file.write_bytes(other.certificate_file.read_bytes())
            site.files.refresh()

            # Whoever is inside leaves, because nobody would let him in now.
            assert kept.has_ended()
        with pytest.raises((OSError, EOFError)), RawClient(served.address, alice) as again:
            again.ask(get())
        with RawClient(served.address, bobby) as let_in:
            assert let_in.ask(get()).status == 200


def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(tmp_path: Path) -> None:
    site = OwnTls(tmp_path)
    with (
        ServedApp(SmallApp(), site.files) as served,
        RawClient(served.address, site.client) as before,
    ):
        assert before.ask(get()).status == 200
        (tmp_path / "tls" / "tls.key").unlink()
        site.files.refresh()

        with RawClient(served.address, site.client) as after:
            assert after.ask(get()).status == 200
        assert before.ask(get()).status == 200


def test_tls_1_2_works_as_well(served: ServedApp, tls: OwnTls) -> None:
    context = tls.client
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with RawClient(served.address, context) as client:
        assert client.ask(get()).status == 200
