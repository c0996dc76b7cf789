"""Starts the KMS v2 provider and keeps it running until a signal or a takeover ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from keycore.bootstrap import Core, open_provider_core
from keycore.domain.providers import key_id_hash
from keycore.settings import Settings
from keyplugin.bounds import STOP_SIGNALS, BoundedEnd, BoundedStart
from keyplugin.endpoint import claim_socket
from keyplugin.handover import (
    Ending,
    Wait,
    ensure_no_worse,
    let_clients_go,
    serve_until_end,
    stand_by,
)
from keyplugin.metrics import ProviderMetrics
from keyplugin.outside import seen_from_outside
from keyplugin.self_check import refuse_wrong_answers
from keyplugin.server import kms_server
from keyplugin.servicer import FACE
from keyplugin.upkeep import Proving, Upkeep

TAKEN_OVER_EXIT_CODE = 76
"""What a process that somebody supervises ends with after a takeover, and every process
that could not end in order after one: nobody must start it again."""

_log = structlog.get_logger(__name__)


def run(
    settings: Settings,
    *,
    takeover: bool = False,
    standby: bool = False,
    supervised: bool = False,
) -> int:
    """Serve until SIGTERM, SIGINT or a takeover; blocks, and belongs in the main thread.

    Args:
        settings: of provider and token.
        takeover: whether to take the socket from a process that serves it.
        standby: whether to wait after another process has taken the socket over, and
            not to end.
        supervised: whether the exit code must tell a takeover from other ends.

    Returns:
        The exit code: 0, or :data:`TAKEN_OVER_EXIT_CODE`.

    Raises:
        SetupError: not initialised, another uid, or token, PIN, store or socket
            unusable; also when kube-apiserver would refuse the provider's answers.
        UnavailableError: token or store did not answer at the start, this process may not
            take over, or the socket has no owner any more.
    """
    metrics = ProviderMetrics()
    with stop_signals() as wait:
        with (
            BoundedEnd() as end,
            BoundedStart() as start,
            open_provider_core(settings, FACE, observe=metrics.observe_token) as core,
        ):
            ending = serve(core, wait, (start, end), metrics, takeover=takeover)
        if standby and ending is Ending.TAKEN_OVER:
            stand_by(settings.provider, wait)
    _log.info("stopped")
    return TAKEN_OVER_EXIT_CODE if supervised and ending is Ending.TAKEN_OVER else 0


def serve(
    core: Core,
    wait: Wait,
    bounds: tuple[BoundedStart, BoundedEnd],
    metrics: ProviderMetrics,
    *,
    takeover: bool = False,
) -> Ending:
    """Serve on the socket until it is time to end, then let running calls finish.

    Raises:
        SetupError: the socket cannot be used, or the provider's answers cannot.
        UnavailableError: this process may not take over, or has lost its socket.
    """
    start, end = bounds
    core.kms.refresh()
    upkeep, proving = Upkeep(core.kms), Proving(core.kms)
    provider = core.settings.provider

    def catch_up() -> None:
        upkeep.run_once()
        proving.run_once()

    with (
        claim_socket(provider, takeover=takeover) as claim,
        kms_server(
            core.kms, parallelism=core.settings.token.parallelism, metrics=metrics
        ) as server,
    ):
        refuse_wrong_answers(core.kms)
        claim.bind(server.add_insecure_port)
        server.start()
        if claim.takes_over:
            ensure_no_worse(core.kms, provider.socket, catch_up)
        claim.publish()
        start.over()
        with upkeep, proving, seen_from_outside(core, metrics), end.beginning_after():
            _log_serving(core)
            ending = serve_until_end(claim, wait)
            if ending is Ending.TAKEN_OVER:
                end.code = TAKEN_OVER_EXIT_CODE
                let_clients_go(claim)
        _log.info("stopping: calls that have come in are answered")
    return ending


@contextmanager
def stop_signals() -> Iterator[Wait]:
    """Yield a function that waits for SIGTERM or SIGINT.

    Both stay blocked, in threads started meanwhile too, so a second signal cannot
    cut short what the first one has begun.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield lambda seconds: signal.sigtimedwait(STOP_SIGNALS, seconds) is not None
    finally:
        while signal.sigtimedwait(STOP_SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_serving(core: Core) -> None:
    provider, outlook = core.settings.provider, core.kms.outlook()
    _log.info(
        "serving KMS v2",
        socket=str(provider.socket),
        provider=provider.name,
        node=provider.node,
        key_id_hash=key_id_hash(outlook.key_id),
        healthz=outlook.healthz,
    )
