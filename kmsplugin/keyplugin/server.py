"""The gRPC server: which call waits for which, how much may wait, and how it all ends.

Status must answer while every Decrypt hangs in the HSM: kube-apiserver stops
writing when Status fails, and shows no reason. So Status has threads of its own,
and calls that need the token are refused before they fill the server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import grpc

from keycore.service.kms import KmsProvider
from keyplugin.interceptors import (
    CountingPool,
    ErrorInterceptor,
    LaneInterceptor,
    MessageInterceptor,
)
from keyplugin.kmsapi.api_pb2_grpc import add_KeyManagementServiceServicer_to_server
from keyplugin.metrics import ProviderMetrics
from keyplugin.servicer import KmsServicer
from keyplugin.silence import SilenceWatch

TOKEN_METHODS = frozenset({"/v2.KeyManagementService/Encrypt", "/v2.KeyManagementService/Decrypt"})
"""The calls that wait for the token."""

TOKEN_THREADS = 4
"""A local token does one thing at a time, and threads that fight for it are slower than
one. But grpcio waits for a call's message in the call's own thread, so there are a few
more. A token that is used in parallel has as many as it can serve at once."""

TOKEN_CALLS_MAX = 1024
"""Calls that may wait for the token: about half a second's work, and the API server gives up
after three. A restarting API server asks for a few dozen at once."""

CONNECTION_CALLS_MAX = 512
"""Calls of one connection at a time. A client holds further ones back by itself, so that
a storm of them is slowed down and not refused."""

CONNECTIONS_MAX = 256
"""Connections at a time, far below what a process may have open; an API server has one."""

STATUS_THREADS = 8

CALLS_MAX = 4 * TOKEN_CALLS_MAX
"""All calls at a time, the refused ones that are not answered yet among them: a bound for
the memory that a flood can take. Calls beyond it are refused by grpcio, Status too."""

MESSAGE_BYTES_MAX = 64 * 1024
"""An honest message has less than 1024 bytes of ciphertext, 1024 of key_id and 32,768
of annotations (``kms-v2-contract``, wire format)."""

HANDSHAKE_SECONDS = 5.0
"""How long a connection may take to begin with HTTP/2; a silent one is closed then."""

CONNECTION_AGE_SECONDS = 10.0
"""How old a connection gets. grpcio then asks the client to make a new one and goes on
answering on the old one, which is the only end of a connection at which no call can fail:
a server that stops refuses what is on its way to it. So this is how long it takes until
all clients have left a process whose socket was taken over. A new connection costs one
call about a millisecond. grpcio varies the time by a tenth."""

CONNECTION_GRACE_SECONDS = 5.0
"""How long a connection that has reached its age may take to finish its calls."""

DRAIN_SECONDS_MAX = 1.1 * CONNECTION_AGE_SECONDS + CONNECTION_GRACE_SECONDS
"""How long it takes at most until all connections have ended that were there before."""

QUIET_SECONDS_MAX = 3.0
"""How long a stopping server goes on serving until there is a moment without a call."""

GRACE_SECONDS = 3.0
"""How long the last calls may take to finish then; kube-apiserver has given them up."""

_QUIET_SECONDS: Final = 0.05
"""A server without a call for this long has none left on its way to our code."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", CONNECTION_CALLS_MAX),
    # Otherwise it refuses calls while Python has not let go of as many answered ones.
    ("grpc.http.overload_protection", 0),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    # Its own queue, before that for the token, drops calls at random when it is full.
    ("grpc.server.max_pending_requests", CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", CALLS_MAX),
    ("grpc.max_connection_age_ms", round(1000 * CONNECTION_AGE_SECONDS)),
    ("grpc.max_connection_age_grace_ms", round(1000 * CONNECTION_GRACE_SECONDS)),
    ("grpc.server_handshake_timeout_ms", round(1000 * HANDSHAKE_SECONDS)),
)


@contextmanager
def kms_server(
    provider: KmsProvider,
    *,
    parallelism: int = 1,
    token_calls_max: int = TOKEN_CALLS_MAX,
    metrics: ProviderMetrics | None = None,
) -> Iterator[grpc.Server]:
    """Build a server, neither bound nor started, and stop it gently in the end.

    After the block no call is inside ``provider`` any more, so the block does not end
    while one hangs in the HSM; killing the process is safe then.

    Args:
        provider: what answers.
        parallelism: how many calls the token takes at once.
        token_calls_max: how many calls may run or wait for the token.
        metrics: counts the calls.
    """
    with (
        CountingPool(max(TOKEN_THREADS, parallelism), name="token") as token_calls,
        ThreadPoolExecutor(STATUS_THREADS, thread_name_prefix="status") as status_calls,
        ThreadPoolExecutor(1, thread_name_prefix="refusal") as refusals,
        SilenceWatch() as watch,
    ):
        interceptors: list[grpc.ServerInterceptor] = [
            MessageInterceptor(watch, refusals),
            LaneInterceptor(
                TOKEN_METHODS, token_calls, waiting_max=token_calls_max, refusals=refusals
            ),
            ErrorInterceptor(),
        ]
        if metrics is not None:
            # Where it sees the time in the queue and what a full one refuses.
            interceptors.insert(1, metrics.call_counter(lambda: token_calls.unfinished))
        server = grpc.server(
            status_calls,
            interceptors=interceptors,
            options=_OPTIONS,
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        add_KeyManagementServiceServicer_to_server(KmsServicer(provider), server)  # type: ignore[no-untyped-call]
        try:
            yield server
        finally:
            _await_quiet(token_calls)
            server.stop(GRACE_SECONDS).wait()


def _await_quiet(calls: CountingPool) -> None:
    """Go on serving until no call waits, for a few seconds at most.

    Stopping cancels the calls that have reached the socket but not our code yet; a
    restart during the API server's burst of Decrypts would fail most of them.
    """
    now = time.monotonic()
    latest, quiet_since = now + QUIET_SECONDS_MAX, now
    while now < latest and now - quiet_since < _QUIET_SECONDS:
        time.sleep(_QUIET_SECONDS / 10)
        now = time.monotonic()
        if calls.unfinished:
            quiet_since = now
