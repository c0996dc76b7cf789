"""The gRPC server on a real socket: who waits for whom, and what strangers can do to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from keycore.errors import IntegrityError, TokenUnavailableError
from keyplugin import server, silence
from keyplugin.errors import OVERLOADED, UNEXPECTED
from keyplugin.kmsapi.api_pb2 import StatusRequest
from keyplugin.servicer import LOOKING
from tests.fakes.installation import CALLER, FakeInstallation
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.serving import served

DECRYPT = "/v2.KeyManagementService/Decrypt"

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


@contextmanager
def silent_calls(socket: Path, method: str, count: int) -> Iterator[list[grpc.Future]]:
    """Open calls whose messages never come; they are cancelled after the block."""
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    with KmsClient(socket) as client:
        open_call = client.channel.stream_unary(f"/v2.KeyManagementService/{method}").future
        calls = [open_call(never()) for _ in range(count)]
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()
            ended.set()


@pytest.mark.parametrize("method", ["Decrypt", "Status"])
def test_clients_that_stop_in_the_middle_of_a_call_stop_nobody_else(
    client: KmsClient, socket: Path, method: str
) -> None:
    """There are more of them than threads, and kube-apiserver waits three seconds."""
    closed = client.encrypt()

    with silent_calls(socket, method, 24):
        started = time.monotonic()
        assert client.decrypt(closed) == SEED
        assert client.status().healthz == "ok"
        seconds = time.monotonic() - started

    assert seconds < 3


def test_a_call_whose_message_does_not_come_is_given_up(client: KmsClient, socket: Path) -> None:
    with capture_logs() as logs, silent_calls(socket, "Decrypt", 1) as (call,):
        assert call.code() is StatusCode.CANCELLED

    assert [(line["event"], line["method"]) for line in logs] == [
        ("a call failed: its message did not come", DECRYPT)
    ]


def test_a_call_that_has_waited_long_for_the_token_is_not_given_up(
    here: FakeInstallation, client: KmsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "MESSAGE_ROUNDS", 0)
    closed = client.encrypt()

    with hanging_token(here, monkeypatch) as entered:
        waiting = [client.start_decrypt(closed) for _ in range(16)]
        assert entered.wait(10)
        client.status()

    assert {call.result().plaintext for call in waiting} == {SEED}


def test_a_storm_of_one_client_is_slowed_down_and_not_refused(client: KmsClient) -> None:
    """It is four times as much as may wait for the token, and all of it comes at once."""
    closed = client.encrypt()

    calls = [client.start_decrypt(closed, timeout=60) for _ in range(4 * server.TOKEN_CALLS_MAX)]

    assert {call.result().plaintext for call in calls} == {SEED}


def test_a_token_that_is_used_in_parallel_gets_as_many_calls_at_once(
    here: FakeInstallation, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = 2 * server.TOKEN_THREADS
    together, decrypt = threading.Barrier(lanes), here.token.decrypt

    def meet(*arguments: object) -> bytes:
        together.wait(10)
        return decrypt(*arguments)  # type: ignore[arg-type]

    with served(here.core.kms, socket, parallelism=lanes), KmsClient(socket) as client:
        closed = client.encrypt()
        monkeypatch.setattr(here.token, "decrypt", meet)
        calls = [client.start_decrypt(closed) for _ in range(lanes)]

        assert {call.result().plaintext for call in calls} == {SEED}


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


def test_calls_go_on_without_a_store(here: FakeInstallation, client: KmsClient) -> None:
    key_id, closed = client.status().key_id, client.encrypt()

    here.store.lost = True
    here.core.kms.refresh()
    status = client.status()

    assert (status.healthz, status.key_id) == ("ok", key_id)
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
        ("error", "Decrypt", True)
    ]


# --- what the log is told -----------------------------------------------------


def test_a_failed_call_leaves_one_warning_with_the_api_servers_uid(client: KmsClient) -> None:
    closed = client.encrypt()
    closed.key_id = "another"

    with capture_logs() as logs, pytest.raises(grpc.RpcError):
        client.decrypt(closed, uid="c0ffee")

    (line,) = logs
    assert line.pop("milliseconds") > 0
    assert line == {
        "log_level": "warning",
        "event": "a call failed",
        "method": "Decrypt",
        "uid": "c0ffee",
        "code": "INVALID_ARGUMENT",
        "error": "the ciphertext is invalid or corrupted",
    }


def test_a_uid_reaches_the_log_short_and_printable(client: KmsClient) -> None:
    with capture_logs() as logs, pytest.raises(grpc.RpcError):
        client.encrypt(b"", uid="line\nbreak" + 1000 * "x")

    assert [len(line["uid"]) for line in logs] == [127]
    assert logs[0]["uid"].startswith("linebreak")


@pytest.mark.parametrize(("level", "lines"), [("DEBUG", 1), ("INFO", 0)])
def test_an_answered_call_is_told_at_debug_level_only(
    client: KmsClient, caplog: pytest.LogCaptureFixture, level: str, lines: int
) -> None:
    with caplog.at_level(logging.getLevelName(level), "keyplugin"), capture_logs() as logs:
        client.encrypt(uid="c0ffee")

    assert [(line["log_level"], line["method"], line["uid"]) for line in logs] == lines * [
        ("debug", "Encrypt", "c0ffee")
    ]


def test_a_look_does_not_fix_the_activation_that_encrypts(
    here: FakeInstallation, client: KmsClient
) -> None:
    """Only the API server's own Status may; it would throw the ciphertext away."""
    key_id = client.status().key_id
    core = here.core
    core.keys.rotate(CALLER, core.providers.overview(core.settings.provider.name).provider.key_id)
    core.kms.refresh()

    looked = client.stub.Status(StatusRequest(), metadata=(LOOKING,), timeout=10).key_id

    assert looked != key_id
    assert client.encrypt().key_id == key_id


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
