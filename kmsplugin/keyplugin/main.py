"""Starts the KMS v2 provider and keeps it running until a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from keycore.bootstrap import Core, open_core
from keycore.domain.providers import key_id_hash
from keycore.settings import Settings
from keyplugin.endpoint import claim_socket
from keyplugin.server import kms_server
from keyplugin.servicer import FACE
from keyplugin.upkeep import Upkeep

_log = structlog.get_logger(__name__)

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; blocks, and belongs in the main thread.

    Raises:
        SetupError: not initialised, another uid, or token, PIN, store or socket
            unusable.
        UnavailableError: token or store did not answer at the start.
    """
    with open_core(settings, FACE) as core, stop_signals() as wait:
        serve(core, wait)


def serve(core: Core, wait: Callable[[], object]) -> None:
    """Serve on the socket until ``wait`` returns, then let running calls finish.

    Raises:
        SocketInUseError: another process serves the path, or no socket lies there.
        SettingsError: the socket's directory or group cannot be used.
    """
    upkeep = Upkeep(core.kms)
    with claim_socket(core.settings.provider) as claim, kms_server(core.kms) as server:
        upkeep.run_once()
        claim.bind(server.add_insecure_port)
        server.start()
        claim.publish()
        with upkeep:
            _log_serving(core)
            wait()
            _log.info("stopping: calls that have come in are answered")
    _log.info("stopped")


@contextmanager
def stop_signals() -> Iterator[Callable[[], object]]:
    """Yield a function that waits for SIGTERM or SIGINT.

    Both stay blocked, in threads started meanwhile too, so a second signal cannot
    cut short what the first one has begun.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield lambda: signal.sigwait(_STOP_SIGNALS)
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
