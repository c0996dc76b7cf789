"""The gRPC server: which call waits for which, and how much may wait.

Status must answer while every Decrypt hangs in the HSM: kube-apiserver stops
writing when Status fails, and shows no reason. So Status has threads of its own,
and calls that need the token are refused before they fill the server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from keycore.service.kms import KmsProvider
from keyplugin.interceptors import CountingPool, ErrorInterceptor, LaneInterceptor
from keyplugin.kmsapi.api_pb2_grpc import add_KeyManagementServiceServicer_to_server
from keyplugin.servicer import KmsServicer

TOKEN_METHODS = frozenset({"/v2.KeyManagementService/Encrypt", "/v2.KeyManagementService/Decrypt"})
"""The calls that wait for the token."""

TOKEN_THREADS = 4
"""A local token does one thing at a time, and threads that fight for it are slower than
one. But grpcio waits for a call's message in the call's own thread, so a client that
stops in the middle of one must not be able to stop all others."""

TOKEN_CALLS_MAX = 1024
"""Calls that may wait for the token: about half a second's work, and the API server gives
up after three. A restarting API server asks for a few dozen at once."""

STATUS_THREADS = 8

STATUS_CALLS_MAX = 64
"""Calls that may come on top of those; kube-apiserver makes one at a time."""

MESSAGE_BYTES_MAX = 64 * 1024
"""An honest message has less than 1024 bytes of ciphertext, 1024 of key_id and 32,768
of annotations (``kms-v2-contract``, wire format)."""

GRACE_SECONDS = 5.0
"""How long running calls may take to finish when the server stops; kube-apiserver
has given them up after three."""

_QUIET_SECONDS = 0.05
"""A server without a call for this long has none left on its way to our code."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]


@contextmanager
def kms_server(
    provider: KmsProvider, *, token_calls_max: int = TOKEN_CALLS_MAX
) -> Iterator[grpc.Server]:
    """Build a server, neither bound nor started, and stop it gently in the end.

    After the block no call is inside ``provider`` any more, so the block does not end
    while one hangs in the HSM; killing the process is safe then.
    """
    with (
        CountingPool(TOKEN_THREADS, name="token") as token_calls,
        ThreadPoolExecutor(STATUS_THREADS, thread_name_prefix="status") as status_calls,
    ):
        lanes = LaneInterceptor(TOKEN_METHODS, token_calls, waiting_max=token_calls_max)
        server = grpc.server(
            status_calls,
            interceptors=[lanes, ErrorInterceptor()],
            options=_OPTIONS,
            maximum_concurrent_rpcs=token_calls_max + STATUS_CALLS_MAX,
        )
        add_KeyManagementServiceServicer_to_server(KmsServicer(provider), server)  # type: ignore[no-untyped-call]
        try:
            yield server
        finally:
            _drain(token_calls)
            server.stop(GRACE_SECONDS).wait()


def _drain(calls: CountingPool) -> None:
    """Go on serving until no call waits, for a few seconds at most.

    Stopping cancels the calls that have reached the socket but not our code yet; a
    restart during the API server's burst of Decrypts would fail most of them.
    """
    now = time.monotonic()
    latest, quiet_since = now + GRACE_SECONDS, now
    while now < latest and now - quiet_since < _QUIET_SECONDS:
        time.sleep(_QUIET_SECONDS / 10)
        now = time.monotonic()
        if calls.unfinished:
            quiet_since = now
