"""What kube-apiserver does to a KMS v2 provider, as far as the tests need it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from keyplugin.kmsapi.api_pb2 import (
    DecryptRequest,
    EncryptRequest,
    EncryptResponse,
    StatusRequest,
    StatusResponse,
)
from keyplugin.kmsapi.api_pb2_grpc import KeyManagementServiceStub

TIMEOUT_SECONDS = 10.0
"""Generous, because the tests' machine may be busy; kube-apiserver's is 3 seconds."""

SEED = bytes(range(32))


class KmsClient(AbstractContextManager["KmsClient"]):
    """One channel to a socket."""

    def __init__(self, socket: Path) -> None:
        """Connect when the first call is made."""
        # A subchannel pool of its own: otherwise all channels of the test process
        # share one connection to a path, and its back-off after a restart.
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"unix:{socket}", options)
        self.stub = KeyManagementServiceStub(self.channel)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the channel."""
        self.channel.close()

    def status(self, *, wait: bool = False) -> StatusResponse:
        """Call Status; ``wait`` for the server to be there."""
        return self.stub.Status(StatusRequest(), timeout=TIMEOUT_SECONDS, wait_for_ready=wait)

    def encrypt(self, plaintext: bytes = SEED, *, uid: str = "encrypt-1") -> EncryptResponse:
        """Call Encrypt."""
        request = EncryptRequest(plaintext=plaintext, uid=uid)
        return self.stub.Encrypt(request, timeout=TIMEOUT_SECONDS)

    def decrypt(self, closed: EncryptResponse, *, uid: str = "decrypt-1") -> bytes:
        """Call Decrypt for what Encrypt returned."""
        return self.stub.Decrypt(opening(closed, uid), timeout=TIMEOUT_SECONDS).plaintext

    def start_decrypt(self, closed: EncryptResponse, *, timeout: float = TIMEOUT_SECONDS) -> Any:
        """Begin a Decrypt and return its future."""
        return self.stub.Decrypt.future(opening(closed, "decrypt-1"), timeout=timeout)

    def call_raw(self, method: str, message: bytes) -> bytes:
        """Call any method with any bytes."""
        return self.channel.unary_unary(method)(message, timeout=TIMEOUT_SECONDS)


def opening(closed: EncryptResponse, uid: str) -> DecryptRequest:
    """Return the request that opens what Encrypt returned."""
    return DecryptRequest(
        ciphertext=closed.ciphertext,
        key_id=closed.key_id,
        annotations=closed.annotations,
        uid=uid,
    )
