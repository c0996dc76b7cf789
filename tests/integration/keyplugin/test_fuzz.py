"""Strangers on the socket: whatever they send is an error for them, and nothing for others.

An honest client is served beside each of them all the time. Bytes are made up by
hypothesis, or changed from those of an honest call. What is left out: clients that
open calls and say nothing, and storms of honest calls (``test_server``); and the content
type, which grpcio neither looks at nor shows.
"""

from __future__ import annotations

import socket as sockets
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyplugin import server
from keyplugin.errors import NOT_A_REQUEST, UNEXPECTED
from keyplugin.kmsapi.api_pb2 import EncryptResponse
from testbed.waiting import wait_until
from tests.integration.keyplugin.client import SEED, TIMEOUT_SECONDS, KmsClient, opening

SERVICE = "/v2.KeyManagementService"
DECRYPT = f"{SERVICE}/Decrypt"

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4

bounded = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Honest:
    """A client that decrypts without a pause, and remembers what went wrong."""

    def __init__(self, client: KmsClient) -> None:
        self.client = client
        self.closed = client.encrypt()
        self.answered = 0
        self.failures: list[object] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        while not self._ended.wait(0.005):
            try:
                assert self.client.decrypt(self.closed) == SEED
            except (AssertionError, grpc.RpcError) as failure:
                self.failures.append(failure)
            self.answered += 1

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def honest(client: KmsClient) -> Iterator[Honest]:
    """The honest client, which every test here has beside its stranger."""
    honest = Honest(client)
    yield honest
    answered = honest.answered
    wait_until(
        lambda: honest.answered > answered, what="another call is answered", within_seconds=10
    )
    honest.end()
    assert honest.failures == []


@pytest.fixture
def closed(honest: Honest) -> EncryptResponse:
    return honest.closed


@pytest.fixture
def stranger(honest: Honest, socket: Path) -> Iterator[KmsClient]:
    """A client whose calls go through gRPC."""
    with KmsClient(socket) as client:
        yield client


# --- calls that are none ------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}/Destroy",
        f"{SERVICE}/decrypt",
        f"{SERVICE}/Decrypt/x",
        f"{SERVICE}/",
        "/v1beta1.KeyManagementService/Encrypt",
        "/grpc.health.v1.Health/Check",
        "/x",
        "/",
    ],
)
def test_an_unknown_method_is_unimplemented(stranger: KmsClient, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stranger.call_raw(method, b"")

    assert refused.value.code() is StatusCode.UNIMPLEMENTED


def test_a_call_without_a_message_is_refused(stranger: KmsClient) -> None:
    call = stranger.channel.stream_unary(DECRYPT)

    with pytest.raises(grpc.RpcError) as refused:
        call(iter(()), timeout=TIMEOUT_SECONDS)

    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == NOT_A_REQUEST


@given(message=st.binary(max_size=300))
@bounded
def test_no_bytes_make_decrypt_return_a_plaintext(stranger: KmsClient, message: bytes) -> None:
    refuse_decrypt(stranger, message)


def refuse_decrypt(client: KmsClient, message: bytes) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.call_raw(DECRYPT, message)

    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert refused.value.details() != UNEXPECTED


def varint(number: int) -> bytes:
    """Return a number as protobuf has it, seven bits in a byte."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field_of(number: int, wire_type: int, content: bytes) -> bytes:
    """Return a protobuf field, whose content need not be what its wire type wants."""
    return varint(number << 3 | wire_type) + content


fields = st.builds(
    field_of,
    number=st.sampled_from([1, 2, 3, 4, 5, 15, 2**29 - 1]),
    wire_type=st.integers(0, 7),
    content=st.one_of(
        st.binary(max_size=20),
        st.binary(max_size=200).map(lambda some: varint(len(some)) + some),
        st.integers(0, 2**64 - 1).map(varint),
    ),
)


@given(message=st.lists(fields, min_size=1, max_size=6).map(b"".join))
@bounded
def test_no_fields_make_decrypt_return_a_plaintext(stranger: KmsClient, message: bytes) -> None:
    refuse_decrypt(stranger, message)


@given(
    message=st.lists(fields, max_size=6).map(b"".join),
    method=st.sampled_from(["Encrypt", "Status"]),
)
@bounded
def test_no_fields_are_more_than_a_wrong_request(
    stranger: KmsClient, message: bytes, method: str
) -> None:
    call = stranger.channel.unary_unary(f"{SERVICE}/{method}").future(message, TIMEOUT_SECONDS)

    assert call.code() in {StatusCode.OK, StatusCode.INVALID_ARGUMENT}


def test_no_part_of_a_request_is_decrypted(stranger: KmsClient, closed: EncryptResponse) -> None:
    # Without the uid, which comes before the key_id and may be missing or cut.
    message = opening(closed, "").SerializeToString()
    assert stranger.call_raw(DECRYPT, message)

    for length in range(len(message)):
        refuse_decrypt(stranger, message[:length])


@pytest.mark.parametrize("size", [server.MESSAGE_BYTES_MAX + 1, 4 * 2**20, 32 * 2**20])
def test_a_huge_message_is_refused(stranger: KmsClient, size: int) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stranger.call_raw(DECRYPT, bytes(size))

    assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message_is_a_message(
    stranger: KmsClient, closed: EncryptResponse, compression: grpc.Compression
) -> None:
    answer = stranger.stub.Decrypt(
        opening(closed, ""), timeout=TIMEOUT_SECONDS, compression=compression
    )

    assert answer.plaintext == SEED


def test_a_message_that_is_huge_once_it_is_unpacked_is_refused(stranger: KmsClient) -> None:
    call = stranger.channel.unary_unary(DECRYPT)

    with pytest.raises(grpc.RpcError) as refused:
        call(bytes(32 * 2**20), timeout=TIMEOUT_SECONDS, compression=grpc.Compression.Gzip)

    assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED


# --- bytes that are no gRPC ---------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame (RFC 9113, 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header field without compression (RFC 7541, 6.2.2); both parts are short."""
    return b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in (name, value))


def grpc_message(content: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    """Return a message as gRPC frames it: a flag, a length and the content."""
    return struct.pack("!BI", compressed, len(content) if size is None else size) + content


def call_of(message: bytes, *, stream: int = 1, **changed: str | None) -> bytes:
    """Return the frames of one Decrypt; ``changed`` replaces or drops header fields."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": DECRYPT,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    block = b"".join(literal(name, value) for name, value in headers.items() if value is not None)
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message)


def conversation(*frames: bytes) -> bytes:
    """Return what a client sends from the beginning of a connection on."""
    return PREFACE + frame(SETTINGS, 0, 0, b"") + b"".join(frames)


def exchange(socket: Path, sent: bytes, *, hang_up: bool = True) -> bytes:
    """Send bytes, and return what is answered.

    Args:
        socket: where to.
        sent: anything.
        hang_up: say at once that no more will come, which takes a running call back;
            otherwise only when the first stream or the connection has been ended.
    """
    with sockets.socket(sockets.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(str(socket))
        received = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            stranger.sendall(sent)
            if hang_up:
                stranger.shutdown(sockets.SHUT_WR)
            while some := stranger.recv(4096):
                received += some
                if not hang_up and has_ended(received):
                    break
        return received


def has_ended(received: bytes) -> bool:
    """Tell whether these frames end stream 1, or the connection."""
    while len(received) >= 9:
        size, kind, flags = int.from_bytes(received[:3]), received[3], received[4]
        stream = int.from_bytes(received[5:9])
        if (stream == 1 and (kind == RST_STREAM or flags & END_STREAM)) or kind == GOAWAY:
            return True
        received = received[9 + size :]
    return False


frames = st.builds(
    frame,
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 2**31 - 1]),
    payload=st.binary(max_size=100),
)
garbage = st.one_of(
    st.binary(max_size=300),
    st.lists(frames, max_size=5).map(lambda some: PREFACE + b"".join(some)),
    st.lists(frames, max_size=5).map(lambda some: conversation(*some)),
)


@given(sent=garbage)
@bounded
def test_no_bytes_on_the_socket_stop_the_server(honest: Honest, socket: Path, sent: bytes) -> None:
    exchange(socket, sent)

    assert honest.failures == []


@given(data=st.data())
@bounded
def test_no_change_of_an_honest_call_stops_the_server(
    honest: Honest, socket: Path, data: st.DataObject
) -> None:
    message = grpc_message(opening(honest.closed, "").SerializeToString())
    sent = bytearray(conversation(call_of(message)))
    for _ in range(data.draw(st.integers(1, 8))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(sent)))

    exchange(socket, bytes(sent[:length]))

    assert honest.failures == []


def test_the_hand_made_call_is_an_honest_one(honest: Honest, socket: Path) -> None:
    """Otherwise its changes would prove nothing."""
    message = grpc_message(opening(honest.closed, "").SerializeToString())

    assert SEED in exchange(socket, conversation(call_of(message)), hang_up=False)


@pytest.mark.parametrize(
    "changed",
    [
        {":method": "GET"},
        {":method": "PUT"},
        {":path": "no-path"},
        {":path": None},
        {"te": None},
        {"grpc_encoding": "snappy"},
        {"grpc_timeout": "0n"},
    ],
    ids=lambda changed: "-".join(f"{name} {value}" for name, value in changed.items()),
)
def test_wrong_header_fields_get_no_plaintext(
    honest: Honest, socket: Path, changed: dict[str, str | None]
) -> None:
    compressed = int("grpc_encoding" in changed)
    content = opening(honest.closed, "").SerializeToString()
    message = grpc_message(content, compressed=compressed)

    answer = exchange(socket, conversation(call_of(message, **changed)), hang_up=False)

    assert SEED not in answer


@pytest.mark.parametrize("compressed", [1, 2, 255])
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_message_that_is_compressed_in_name_only_gets_no_plaintext(
    honest: Honest, socket: Path, compressed: int, encoding: str | None
) -> None:
    content = opening(honest.closed, "").SerializeToString()
    message = grpc_message(content, compressed=compressed)

    sent = conversation(call_of(message, grpc_encoding=encoding))

    assert SEED not in exchange(socket, sent, hang_up=False)


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**31, 2**32 - 1])
def test_a_message_of_another_length_than_it_says_gets_no_plaintext(
    honest: Honest, socket: Path, size: int
) -> None:
    message = grpc_message(opening(honest.closed, "").SerializeToString(), size=size)

    assert SEED not in exchange(socket, conversation(call_of(message)), hang_up=False)


def test_calls_that_are_taken_back_at_once_stop_nobody(honest: Honest, socket: Path) -> None:
    message = grpc_message(opening(honest.closed, "").SerializeToString())
    streams = range(1, 4000, 2)
    reset = struct.pack("!I", 8)

    exchange(
        socket,
        conversation(
            *(call_of(message, stream=one) + frame(RST_STREAM, 0, one, reset) for one in streams)
        ),
    )


def test_connections_that_say_nothing_are_closed_and_stop_nobody(
    honest: Honest, socket: Path
) -> None:
    """There are more of them than the server takes."""
    with ExitStack() as opened:
        silent = [
            opened.enter_context(sockets.socket(sockets.AF_UNIX))
            for _ in range(server.CONNECTIONS_MAX + 50)
        ]
        started = time.monotonic()
        for one in silent:
            one.settimeout(server.HANDSHAKE_SECONDS + 10)
            one.connect(str(socket))
        assert all(is_closed_by_peer(one) for one in silent)
        seconds = time.monotonic() - started

    # Otherwise they would last as long as a connection.
    assert seconds < server.CONNECTION_AGE_SECONDS


def is_closed_by_peer(one: sockets.socket) -> bool:
    with suppress(ConnectionResetError):
        while one.recv(4096):
            pass
    return True
