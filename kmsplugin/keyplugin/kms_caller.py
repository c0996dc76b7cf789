"""Calls a KMS v2 provider as kube-apiserver does, and measures it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import grpc

from keyplugin.kmsapi.api_pb2 import (
    DecryptRequest,
    EncryptRequest,
    EncryptResponse,
    StatusRequest,
    StatusResponse,
)
from keyplugin.kmsapi.api_pb2_grpc import KeyManagementServiceStub

TIMEOUT_SECONDS: Final = 3.0
"""The API server's default for each call."""

_OPTIONS: Final = (
    ("grpc.default_authority", "localhost"),
    # Otherwise all channels of a process share a connection, and its back-off.
    ("grpc.use_local_subchannel_pool", 1),
)


class CallError(Exception):
    """A call was answered with an error, or not at all.

    Attributes:
        code: gRPC status code.
        text: what the provider said about it, which may hold anything.
    """

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        """Keep both."""
        super().__init__(code.name)
        self.code = code
        self.text = text

    @property
    def is_refusal(self) -> bool:
        """Whether the provider has said no, rather than nothing."""
        silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return self.code not in (*silent, grpc.StatusCode.UNIMPLEMENTED)


class KmsCaller(AbstractContextManager["KmsCaller"]):
    """One connection to a socket. Every method raises :class:`CallError`.

    Attributes:
        seconds: how long each call took that was answered, by method.
    """

    def __init__(self, socket: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Connect at the first call; no call takes longer than ``timeout_seconds``."""
        self._timeout = timeout_seconds
        self._channel = grpc.insecure_channel(f"unix:{quote(str(socket))}", list(_OPTIONS))
        self._stub = KeyManagementServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.seconds: dict[str, list[float]] = {}

    def __enter__(self) -> Self:
        """Return the caller."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._channel.close()

    def status(self) -> StatusResponse:
        """Ask for health and ``key_id``."""
        answer: StatusResponse = self._call("Status", self._stub.Status, StatusRequest())
        return answer

    def encrypt(self, seed: bytes, uid: str) -> EncryptResponse:
        """Have a seed encrypted."""
        request = EncryptRequest(plaintext=seed, uid=uid)
        answer: EncryptResponse = self._call("Encrypt", self._stub.Encrypt, request)
        return answer

    def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, bytes], uid: str
    ) -> bytes:
        """Have a ciphertext decrypted."""
        request = DecryptRequest(
            ciphertext=ciphertext, key_id=key_id, annotations=dict(annotations), uid=uid
        )
        plaintext: bytes = self._call("Decrypt", self._stub.Decrypt, request).plaintext
        return plaintext

    def raw(self, method: str, message: bytes) -> bytes:
        """Call any method with any bytes."""
        answer: bytes = self._call("raw", self._channel.unary_unary(method), message)
        return answer

    def _call(self, name: str, method: Any, request: Any) -> Any:
        started = time.monotonic()
        try:
            answer = method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise CallError(error.code(), error.details() or "") from None
        self.seconds.setdefault(name, []).append(time.monotonic() - started)
        return answer
