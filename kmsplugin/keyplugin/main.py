"""Starts the KMS v2 provider and keeps it running until a signal or a takeover ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import structlog

from keycore.bootstrap import Core, open_provider_core
from keycore.domain.providers import key_id_hash
from keycore.settings import Settings
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
from keyplugin.server import GRACE_SECONDS, QUIET_SECONDS_MAX, kms_server
from keyplugin.servicer import FACE
from keyplugin.upkeep import Proving, Upkeep

STUCK_EXIT_CODE = os.EX_TEMPFAIL
"""75: the process had to end although a call was inside the HSM that did not return."""

_END_SECONDS_MAX = QUIET_SECONDS_MAX + GRACE_SECONDS + 1.0
"""How long the end of a process may take, from the moment at which it stops serving."""

_log = structlog.get_logger(__name__)

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def run(settings: Settings, *, takeover: bool = False, standby: bool = False) -> None:
    """Serve until SIGTERM, SIGINT or a takeover; blocks, and belongs in the main thread.

    Args:
        settings: of provider and token.
        takeover: whether to take the socket from a process that serves it.
        standby: whether to wait after another process has taken the socket over, and
            not to end.

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
            open_provider_core(settings, FACE, observe=metrics.observe_token) as core,
        ):
            ending = serve(core, wait, end, metrics, takeover=takeover)
        if standby and ending is Ending.TAKEN_OVER:
            stand_by(settings.provider, wait)
    _log.info("stopped")


def serve(
    core: Core, wait: Wait, end: BoundedEnd, metrics: ProviderMetrics, *, takeover: bool = False
) -> Ending:
    """Serve on the socket until it is time to end, then let running calls finish.

    Raises:
        SetupError: the socket cannot be used, or the provider's answers cannot.
        UnavailableError: this process may not take over, or has lost its socket.
    """
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
        catch_up()
        refuse_wrong_answers(core.kms)
        claim.bind(server.add_insecure_port)
        server.start()
        if claim.takes_over:
            ensure_no_worse(core.kms, provider.socket, catch_up)
        claim.publish()
        with upkeep, proving, seen_from_outside(core, metrics), end.beginning_after():
            _log_serving(core)
            ending = serve_until_end(claim, wait)
            if ending is Ending.TAKEN_OVER:
                let_clients_go(claim)
        _log.info("stopping: calls that have come in are answered")
    return ending


class BoundedEnd:
    """Ends the process by force when its orderly end takes too long.

    A call that never comes back from the HSM cannot be cancelled: Python's threads end
    only by themselves, and the interpreter waits for them. Whoever started the process
    waits too, and after a takeover nobody would see that it is still there. What a call
    could leave behind is in the HSM; files and store are whole at any moment.
    """

    def __init__(self) -> None:
        """Bound nothing yet."""
        self._timer = threading.Timer(_END_SECONDS_MAX, _end_by_force)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Begin the block whose end may be bounded."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The end was orderly."""
        self._timer.cancel()

    @contextmanager
    def beginning_after(self) -> Iterator[None]:
        """Let the time run from the end of a block on, whatever ends it."""
        try:
            yield
        finally:
            self._timer.start()


def _end_by_force() -> None:
    _log.error(
        "a call inside the HSM does not return, and the process ends without it; "
        "check the HSM before the next start"
    )
    os._exit(STUCK_EXIT_CODE)


@contextmanager
def stop_signals() -> Iterator[Wait]:
    """Yield a function that waits for SIGTERM or SIGINT.

    Both stay blocked, in threads started meanwhile too, so a second signal cannot
    cut short what the first one has begun.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield lambda seconds: signal.sigtimedwait(_STOP_SIGNALS, seconds) is not None
    finally:
        while signal.sigtimedwait(_STOP_SIGNALS, 0) is not None:
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
