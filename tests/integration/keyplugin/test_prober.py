"""A probe finds no fault in our provider, and the right one in each that misbehaves."""

from __future__ import annotations

import base64
import os
import socket as sockets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyplugin.kmsapi.api_pb2 import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    StatusResponse,
)
from keyplugin.kmsapi.api_pb2_grpc import (
    KeyManagementServiceServicer,
    add_KeyManagementServiceServicer_to_server,
)
from keyplugin.prober import probe
from tests.fakes.installation import FakeInstallation
from tests.integration.keyplugin.serving import served

COUNT = 4


class RefusedError(Exception):
    """Becomes INVALID_ARGUMENT with the text."""


class HonestProvider:
    """Remembers every seed under a random handle, and refuses whatever it did not hand out."""

    version = "v2"
    healthz = "ok"
    key_id = "generation-1"

    def __init__(self) -> None:
        self.seeds: dict[bytes, bytes] = {}
        self.ended = threading.Event()

    def status(self) -> StatusResponse:
        return StatusResponse(version=self.version, healthz=self.healthz, key_id=self.key_id)

    def encrypt(self, seed: bytes) -> EncryptResponse:
        return self.under(os.urandom(16), seed)

    def decrypt(self, ciphertext: bytes, key_id: str) -> bytes:
        if ciphertext not in self.seeds or key_id != self.key_id:
            raise RefusedError("refused")
        return self.seeds[ciphertext]

    def under(self, handle: bytes, seed: bytes) -> EncryptResponse:
        """Remember a seed under a handle."""
        self.seeds[handle] = seed
        return EncryptResponse(ciphertext=handle, key_id=self.key_id)


class Servicer(KeyManagementServiceServicer):
    """Calls a provider of these tests."""

    def __init__(self, provider: HonestProvider) -> None:
        self._provider = provider

    def Status(self, *_: object) -> StatusResponse:  # noqa: N802
        return self._provider.status()

    def Encrypt(  # noqa: N802
        self, request: EncryptRequest, context: grpc.ServicerContext
    ) -> EncryptResponse:
        try:
            return self._provider.encrypt(request.plaintext)
        except RefusedError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def Decrypt(  # noqa: N802
        self, request: DecryptRequest, context: grpc.ServicerContext
    ) -> DecryptResponse:
        try:
            plaintext = self._provider.decrypt(request.ciphertext, request.key_id)
        except RefusedError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return DecryptResponse(plaintext=plaintext)


@contextmanager
def serving(provider: HonestProvider, socket: Path) -> Iterator[None]:
    """Serve one provider, as carelessly as others do."""
    with ThreadPoolExecutor(12) as pool:
        server = grpc.server(pool)
        add_KeyManagementServiceServicer_to_server(Servicer(provider), server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        socket.chmod(0o600)
        try:
            yield
        finally:
            provider.ended.set()
            server.stop(None).wait()


def probed(socket: Path, **options: Any) -> dict[str, list[tuple[str, str]]]:
    """Probe, and return what was said by each check, without how fast it was."""
    said: dict[str, list[tuple[str, str]]] = {}
    for finding in probe(socket, **{"count": COUNT, "timeout_seconds": 10, **options}):
        verdict = finding.verdict
        assert verdict.advice or verdict.outcome == "skipped"
        # The machine of the tests may be busy.
        slow = finding.check.endswith("latency") or finding.check == "concurrency"
        outcome = "ok" if slow and verdict.outcome == "warning" else verdict.outcome.value
        said.setdefault(finding.check, []).append((outcome, verdict.what))
    return said


def wrong(provider: HonestProvider, socket: Path, **options: Any) -> dict[str, str]:
    """Return what is no ok, by its check; the first of each."""
    with serving(provider, socket):
        said = probed(socket, **options)
    return {
        check: f"{outcome}: {what}"
        for check, verdicts in said.items()
        for outcome, what in verdicts[:1]
        if outcome != "ok"
    }


# --- good ones ---------------------------------------------------------------------


def test_our_provider_breaks_no_rule(here: FakeInstallation, socket: Path) -> None:
    with served(here.core.kms, socket):
        said = probed(socket)

    assert {outcome for verdicts in said.values() for outcome, _ in verdicts} == {"ok"}
    assert len(said) == 21


def test_another_provider_that_keeps_the_rules_has_no_fault(socket: Path) -> None:
    assert wrong(HonestProvider(), socket) == {}


def test_a_probe_of_status_alone_encrypts_nothing(socket: Path) -> None:
    provider = HonestProvider()

    assert wrong(provider, socket, status_only=True) == {}
    assert provider.seeds == {}


# --- bad ones ----------------------------------------------------------------------


class WrongVersion(HonestProvider):
    version = "v1"


class FormerVersion(HonestProvider):
    version = "v2beta1"


class Unhealthy(HonestProvider):
    healthz = "the token is gone"


class WithoutKeyId(HonestProvider):
    key_id = ""


class FlipFlop(HonestProvider):
    """Gives another key_id at each second poll, as two providers behind one socket would."""

    polls = 0

    def status(self) -> StatusResponse:
        self.polls += 1
        return StatusResponse(version="v2", healthz="ok", key_id=f"key-{self.polls % 2}")


class OtherKeyIdInEncrypt(HonestProvider):
    def encrypt(self, seed: bytes) -> EncryptResponse:
        answer = super().encrypt(seed)
        answer.key_id = "generation-0"
        return answer


class LongCiphertext(HonestProvider):
    def encrypt(self, seed: bytes) -> EncryptResponse:
        return self.under(os.urandom(1025), seed)


class WrongAnnotation(HonestProvider):
    def encrypt(self, seed: bytes) -> EncryptResponse:
        answer = super().encrypt(seed)
        answer.annotations["example.com/version"] = b"1"
        return answer


class Plaintext(HonestProvider):
    """Encrypts nothing at all."""

    def encrypt(self, seed: bytes) -> EncryptResponse:
        return self.under(os.urandom(16) + seed, seed)


class Deterministic(HonestProvider):
    def encrypt(self, seed: bytes) -> EncryptResponse:
        return self.under(seed[::-1], seed)


class WrongSeed(HonestProvider):
    def decrypt(self, ciphertext: bytes, key_id: str) -> bytes:
        return super().decrypt(ciphertext, key_id)[::-1]


class AnyKeyId(HonestProvider):
    """Ignores the key_id, as providers with one key do."""

    def decrypt(self, ciphertext: bytes, _: str) -> bytes:
        return super().decrypt(ciphertext, self.key_id)


class Unauthenticated(HonestProvider):
    """Opens a changed ciphertext to something."""

    def decrypt(self, ciphertext: bytes, key_id: str) -> bytes:
        if ciphertext and key_id == self.key_id:
            return self.seeds.get(ciphertext, bytes(32))
        raise RefusedError("refused")


class Talkative(HonestProvider):
    """Puts what it should not open into the text of the error, in base64."""

    def decrypt(self, ciphertext: bytes, key_id: str) -> bytes:
        seed = self.seeds.get(ciphertext, b"")
        if seed and key_id != self.key_id:
            raise RefusedError(f"not for {base64.b64encode(seed).decode()}")
        return super().decrypt(ciphertext, key_id)


class TalkativeAboutLength(HonestProvider):
    """Quotes a plaintext that is too long."""

    def encrypt(self, seed: bytes) -> EncryptResponse:
        if len(seed) > 64:
            raise RefusedError(f"too long: {seed[:16]!r}")
        return super().encrypt(seed)


@pytest.mark.parametrize(
    ("provider", "check", "said"),
    [
        (WrongVersion, "Status answer", "fault: version is 'v1'"),
        (FormerVersion, "Status answer", "warning: version is 'v2beta1'"),
        (Unhealthy, "Status answer", "fault: healthz is 'the token is gone'"),
        (WithoutKeyId, "Status answer", "fault: the key_id is empty"),
        (FlipFlop, "key_id", "fault: the key_id goes back and forth"),
        (OtherKeyIdInEncrypt, "Encrypt answer", "fault: the key_id is another one than Status"),
        (LongCiphertext, "Encrypt answer", "fault: the ciphertext has 1025 bytes"),
        (WrongAnnotation, "Encrypt answer", "fault: the annotation name 'example.com/version'"),
        (Plaintext, "Encrypt answer", "fault: the answer holds the seed in plain"),
        (Deterministic, "freshness", "fault: one seed encrypted twice gives the same"),
        (WrongSeed, "Decrypt", "fault: Decrypt gives another seed"),
        (AnyKeyId, "other key_ids", "fault: an unknown key_id is accepted"),
        (Unauthenticated, "changed ciphertexts", "fault: a ciphertext with a flipped bit"),
        (Talkative, "error texts", "fault: the text of an error holds a part of a seed"),
        (TalkativeAboutLength, "error texts", "fault: the text of an error holds a part"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_each_broken_rule_is_found(
    socket: Path, provider: type[HonestProvider], check: str, said: str
) -> None:
    assert wrong(provider(), socket)[check].startswith(said)


@pytest.mark.parametrize("provider", [AnyKeyId, Unauthenticated, Talkative])
def test_one_broken_rule_is_not_taken_for_another(
    socket: Path, provider: type[HonestProvider]
) -> None:
    assert len(wrong(provider(), socket)) == 1


def test_a_seed_is_never_shown_even_of_a_provider_that_talks(socket: Path) -> None:
    provider = Talkative()

    with serving(provider, socket):
        told = str(list(probe(socket, count=COUNT)))

    for seed in provider.seeds.values():
        assert base64.b64encode(seed).decode()[:16] not in told
        assert seed.hex()[:16] not in told


# --- bad sockets, and silence ---------------------------------------------------------


class Hanging(HonestProvider):
    """Answers Status, and Encrypt when nobody waits any more."""

    def encrypt(self, seed: bytes) -> EncryptResponse:
        self.ended.wait(10)
        return super().encrypt(seed)


def test_a_provider_that_hangs_is_told_after_one_call(socket: Path) -> None:
    started = time.monotonic()

    found = wrong(Hanging(), socket, timeout_seconds=0.5)

    assert found["Encrypt"] == "fault: Encrypt was not answered (DEADLINE_EXCEEDED)"
    assert found["Decrypt"] == "skipped: needs: Encrypt"
    assert time.monotonic() - started < 5


def test_a_socket_that_nobody_serves_is_told(socket: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as left_behind:
        left_behind.bind(str(socket))

    said = probed(socket)

    assert said["server"] == [("fault", "nobody listens")]
    assert said["Status"] == [("skipped", "needs: server")]


def test_a_path_without_a_socket_is_told(socket: Path) -> None:
    assert probed(socket)["socket"] == [("fault", f"there is no {socket}")]


def test_an_abstract_socket_is_refused_unseen() -> None:
    said = probed(Path("@keyplane"))

    assert said["path"][0][0] == "fault"
    assert {verdicts[0][0] for check, verdicts in said.items() if check != "path"} == {"skipped"}


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    assert "longer than 107 bytes" in probed(tmp_path / ("x" * 120))["path"][0][1]


@pytest.mark.parametrize(
    ("socket_mode", "directory_mode", "check"),
    [(0o666, 0o755, "socket"), (0o600, 0o777, "directory")],
)
def test_a_socket_that_everybody_may_open_or_replace_is_a_fault(
    socket: Path, socket_mode: int, directory_mode: int, check: str
) -> None:
    socket.parent.chmod(directory_mode)
    with serving(HonestProvider(), socket):
        socket.chmod(socket_mode)

        said = probed(socket, status_only=True)

    (found,) = said[check]
    assert found[0] == "fault"
    assert said["Status"] == [("ok", "Status is answered")]


def test_a_socket_that_everybody_may_open_in_a_closed_directory_is_well(socket: Path) -> None:
    socket.parent.chmod(0o700)
    with serving(HonestProvider(), socket):
        socket.chmod(0o666)

        assert probed(socket, status_only=True)["socket"][0][0] == "ok"
