"""The gRPC server on a real socket: who waits for whom, and what strangers can do to it."""

from __future__ import annotations

import socket as sockets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from keycore.errors import IntegrityError, TokenUnavailableError
from keyplugin import server
from keyplugin.errors import OVERLOADED, UNEXPECTED
from tests.fakes.installation import FakeInstallation
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.serving import served

DECRYPT = "/v2.KeyManagementService/Decrypt"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

eventually = retry(
    retry=retry_if_result(lambda reached: not reached),
    stop=stop_after_delay(10),
    wait=wait_fixed(0.01),
)


@contextmanager
def hanging_token(here: FakeInstallation, patch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make every decryption in the token wait until the block ends; yield its first sign."""
    release, entered = threading.Event(), threading.Event()
    decrypt = here.token.decrypt

    def wait(*arguments: object) -> bytes:
        entered.set()
        release.wait()
        return decrypt(*arguments)  # type: ignore[arg-type]

    with patch.context() as patched:
        patched.setattr(here.token, "decrypt", wait)
        try:
            yield entered
        finally:
            release.set()


# --- a call and its queue -----------------------------------------------------


def test_what_was_encrypted_is_decrypted(client: KmsClient) -> None:
    assert client.decrypt(client.encrypt()) == SEED


def test_status_answers_while_32_decrypts_hang_in_the_token(
    here: FakeInstallation, client: KmsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = client.encrypt()

    with hanging_token(here, monkeypatch) as entered:
        hanging = [client.start_decrypt(closed) for _ in range(32)]
        assert entered.wait(10)
        status = client.status()
        finished = [call.done() for call in hanging]

    assert status.healthz == "ok"
    assert not any(finished)
    assert {call.result().plaintext for call in hanging} == {SEED}


@pytest.mark.parametrize("method", ["Decrypt", "Status"])
def test_a_client_that_stops_in_the_middle_of_a_call_stops_nobody_else(
    client: KmsClient, socket: Path, method: str
) -> None:
    """Grpcio waits for a call's message in the thread that will answer it."""
    silent = threading.Event()

    def never() -> Iterator[bytes]:
        silent.wait()
        yield b""

    with KmsClient(socket) as other:
        calls = [
            other.channel.stream_unary(f"/v2.KeyManagementService/{method}").future(never())
            for _ in range(3)
        ]
        try:
            assert client.status().healthz == "ok"
            assert client.decrypt(client.encrypt()) == SEED
        finally:
            for call in calls:
                call.cancel()
            silent.set()


def test_calls_beyond_the_queue_are_refused_and_status_still_answers(
    here: FakeInstallation, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that never comes back must not fill the whole server."""
    with served(here.core.kms, socket, token_calls_max=4), KmsClient(socket) as client:
        closed = client.encrypt()
        with hanging_token(here, monkeypatch) as entered:
            hanging = [client.start_decrypt(closed) for _ in range(4)]
            assert entered.wait(10)
            refused = _refused(client, closed)
            status = client.status()

        assert (refused.code(), refused.details()) == (StatusCode.RESOURCE_EXHAUSTED, OVERLOADED)
        assert status.healthz == "ok"
        assert {call.result().plaintext for call in hanging} == {SEED}
        assert client.decrypt(closed) == SEED


def test_calls_that_were_given_up_by_the_caller_are_not_carried_out(
    here: FakeInstallation, client: KmsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage the token must not work through what nobody waits for any more."""
    closed = client.encrypt()

    with hanging_token(here, monkeypatch) as entered:
        hanging = [client.start_decrypt(closed) for _ in range(16)]
        assert entered.wait(10)
        for call in hanging:
            call.cancel()
        client.status()
    assert client.decrypt(closed, uid="last") == SEED

    decrypted = [line for line in here.audit.events if line.operation == "kms.decrypt"]
    assert len(decrypted) < 16
    assert decrypted[-1].correlation_id == "last"


# --- what callers are told ----------------------------------------------------


def test_another_key_id_is_refused_as_invalid(client: KmsClient) -> None:
    closed = client.encrypt()
    closed.key_id = "11111111-2222-4333-8444-555555555555"

    with pytest.raises(grpc.RpcError) as refused:
        client.decrypt(closed)

    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "the ciphertext is invalid or corrupted"


@pytest.mark.parametrize("length", [0, 979])
def test_a_plaintext_out_of_bounds_is_refused(client: KmsClient, length: int) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.encrypt(bytes(length))

    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "plaintext must have 1 to 978 bytes"


def test_the_longest_plaintext_makes_the_longest_ciphertext_that_the_api_server_takes(
    client: KmsClient,
) -> None:
    closed = client.encrypt(bytes(978))

    assert len(closed.ciphertext) == 1024
    assert client.decrypt(closed) == bytes(978)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TokenUnavailableError("the token does not answer"), StatusCode.UNAVAILABLE),
        (IntegrityError("key", "k"), StatusCode.DATA_LOSS),
    ],
    ids=["token lost", "record changed"],
)
def test_a_domain_error_arrives_with_its_code(
    here: FakeInstallation,
    client: KmsClient,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: StatusCode,
) -> None:
    closed = client.encrypt()
    monkeypatch.setattr(here.token, "decrypt", _raising(error))

    with pytest.raises(grpc.RpcError) as failed:
        client.decrypt(closed)

    assert failed.value.code() is code
    assert failed.value.details().startswith(str(error))


def test_calls_go_on_without_a_store_and_status_tells_of_it(
    here: FakeInstallation, client: KmsClient
) -> None:
    key_id, closed = client.status().key_id, client.encrypt()

    here.store.lost = True
    here.core.kms.refresh()
    status = client.status()

    assert (status.healthz, status.key_id) == ("the store does not answer", key_id)
    assert client.decrypt(closed) == SEED
    assert client.decrypt(client.encrypt()) == SEED


def test_an_unexpected_exception_says_nothing_to_the_caller_and_everything_to_the_log(
    here: FakeInstallation, client: KmsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = client.encrypt()
    monkeypatch.setattr(here.token, "decrypt", _raising(RuntimeError("inner workings")))

    with capture_logs() as logs, pytest.raises(grpc.RpcError) as failed:
        client.decrypt(closed)

    assert (failed.value.code(), failed.value.details()) == (StatusCode.INTERNAL, UNEXPECTED)
    assert [(line["log_level"], line["method"], line["exc_info"]) for line in logs] == [
        ("error", DECRYPT, True)
    ]


# --- strangers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["/v2.KeyManagementService/Destroy", "/v1beta1.KeyManagementService/Encrypt", "/x", "/"],
)
def test_an_unknown_method_is_unimplemented(client: KmsClient, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.call_raw(method, b"")

    assert refused.value.code() is StatusCode.UNIMPLEMENTED


def test_a_message_that_is_no_protobuf_is_refused(client: KmsClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.call_raw(DECRYPT, b"\xff" * 100)

    assert refused.value.code() is StatusCode.INTERNAL
    assert refused.value.details() == "Exception deserializing request!"


def test_a_message_above_64_kib_is_refused(client: KmsClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.encrypt(bytes(server.MESSAGE_BYTES_MAX))

    assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED


messages = st.binary(max_size=300)


@given(message=messages)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_message_makes_decrypt_return_a_plaintext(client: KmsClient, message: bytes) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.call_raw(DECRYPT, message)

    assert refused.value.code() in {StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL}
    assert refused.value.details() != UNEXPECTED


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame (RFC 9113, 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


frames = st.builds(
    frame,
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 2**31 - 1]),
    payload=st.binary(max_size=100),
)
garbage = st.one_of(
    st.binary(max_size=300),
    st.lists(frames, max_size=5).map(lambda some: HTTP2_PREFACE + b"".join(some)),
    st.lists(frames, max_size=5).map(
        lambda some: HTTP2_PREFACE + frame(4, 0, 0, b"") + b"".join(some)
    ),
)


@given(sent=garbage)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_on_the_socket_stop_the_server(
    client: KmsClient, socket: Path, sent: bytes
) -> None:
    with sockets.socket(sockets.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect(str(socket))
        with suppress(BrokenPipeError, ConnectionResetError):
            stranger.sendall(sent)
            stranger.shutdown(sockets.SHUT_WR)
            while stranger.recv(4096):
                pass

    assert client.status().healthz == "ok"


def _raising(error: Exception) -> object:
    def fail(*_: object) -> bytes:
        raise error

    return fail


def _refused(client: KmsClient, closed: object) -> grpc.RpcError:
    """Return the refusal that a further Decrypt gets once the queue is full."""

    @eventually
    def attempt() -> grpc.RpcError | None:
        call = client.start_decrypt(closed)  # type: ignore[arg-type]
        try:
            call.result(timeout=0.5)
        except grpc.RpcError as error:
            return error
        except grpc.FutureTimeoutError:
            call.cancel()
        return None

    return attempt()  # type: ignore[return-value]
