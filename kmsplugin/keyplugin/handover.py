"""From one process to the next on one socket: who may take over, and how the former one ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import grpc
import structlog

from keycore.errors import UnavailableError
from keycore.service.kms import HEALTHY, KmsProvider
from keycore.service.kms_health import KmsStatus
from keycore.settings import ProviderSettings
from keyplugin.connections import await_no_connections
from keyplugin.endpoint import SocketClaim, Standing, is_abandoned
from keyplugin.kmsapi.api_pb2 import StatusRequest
from keyplugin.kmsapi.api_pb2_grpc import KeyManagementServiceStub
from keyplugin.server import DRAIN_SECONDS_MAX
from keyplugin.servicer import LOOKING

LOOK_SECONDS = 0.25
"""How often a process looks whether the socket's path is still its own."""

SAME_KEY_SECONDS = 5.0
"""How long a takeover waits until both processes have seen the same rotations."""

ABANDONED_SECONDS = 3.0
"""How long nobody may serve before a process that stands by ends, to be started again."""

_ASK_SECONDS = 3.0
"""The API server would not wait longer either."""

_PAUSE_SECONDS = 0.1

_log = structlog.get_logger(__name__)

Wait = Callable[[float], bool]
"""Waits so many seconds for the signal to end, and tells whether it came."""


class Ending(Enum):
    """Why a process stops serving."""

    SIGNAL = "signal"
    TAKEN_OVER = "taken over"


def ensure_no_worse(provider: KmsProvider, socket: Path, catch_up: Callable[[], object]) -> None:
    """Let a process take over only if clients are served as well afterwards.

    It must be healthy, or the one that serves is not healthy either; and where that one
    is, both must name the same ``key_id``, because one that changes back makes every
    object in etcd look stale.

    Args:
        provider: this process's.
        socket: where the other one serves.
        catch_up: has ``provider`` look at store and token again.

    Raises:
        UnavailableError: it may not; the other process serves on.
    """
    latest = time.monotonic() + SAME_KEY_SECONDS
    while fault := _why_worse(provider.outlook(), _served_status(socket)):
        if time.monotonic() >= latest:
            raise UnavailableError(
                f"the provider that serves {socket} was not replaced: {fault}",
                hint="it serves on; mend what is wrong with this one, and start it again",
            )
        time.sleep(_PAUSE_SECONDS)
        catch_up()


def _why_worse(own: KmsStatus, served: KmsStatus | None) -> str:
    well_served = served is not None and served.healthz == HEALTHY
    if own.healthz != HEALTHY and (well_served or not own.key_id):
        return own.healthz
    if well_served and served is not None and own.key_id != served.key_id:
        return "it encrypts under another key_id than this one"
    return ""


def _served_status(socket: Path) -> KmsStatus | None:
    """Ask the process that serves now; ``None`` when it does not answer."""
    # Of its own pool, or the process's next question could find this connection broken.
    options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{quote(str(socket))}", options) as channel:
        stub = KeyManagementServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            answer = stub.Status(StatusRequest(), timeout=_ASK_SECONDS, metadata=(LOOKING,))
        except grpc.RpcError:
            return None
    return KmsStatus(answer.healthz, answer.key_id)


def serve_until_end(claim: SocketClaim, wait: Wait) -> Ending:
    """Keep an eye on the socket's path until a signal comes or another process has it.

    Raises:
        SocketInUseError: a stranger's socket or file is at the path.
        UnavailableError: the socket is gone for good.
    """
    while not wait(LOOK_SECONDS):
        if claim.look() is Standing.TAKEN_OVER:
            return Ending.TAKEN_OVER
    return Ending.SIGNAL


def let_clients_go(claim: SocketClaim) -> None:
    """Go on serving until every client has made its next connection, to the new process."""
    _log.info("another process has taken the socket over; calls that still come are answered")
    left = await_no_connections(claim.private, within_seconds=DRAIN_SECONDS_MAX)
    if left:
        _log.warning("connections that do not end are cut off", connections=left)


def stand_by(settings: ProviderSettings, wait: Wait) -> None:
    """After a takeover, wait for the signal, or until the socket needs somebody again.

    For kubelet, which would start a container again that has ended, so that two pods
    would take the socket from each other in turn.

    Raises:
        UnavailableError: nobody serves the socket any more.
    """
    _log.info("standing by, until nobody serves the socket any more")
    since = time.monotonic()
    while not wait(LOOK_SECONDS):
        if not is_abandoned(settings.socket):
            since = time.monotonic()
        elif time.monotonic() - since > ABANDONED_SECONDS:
            raise UnavailableError(
                f"nobody serves {settings.socket} any more",
                hint="start the provider again; kubelet does so by itself",
            )
