"""Starts the REST face and keeps it running until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import structlog
import uvloop

from keycore.bootstrap import Core, open_core
from keycore.errors import KeyplaneError
from keycore.service.readiness import Finding, Outcome
from keycore.settings import Settings
from keyrest.app import checks_of, rest_app
from keyrest.credentials import Authenticator
from keyrest.gates import FACE
from keyrest.health import Check
from keyrest.limits import Limits
from keyrest.listening import open_listeners, url_of
from keyrest.metrics import RestMetrics
from keyrest.outside import seen_from_outside
from keyrest.policy import PolicyFile
from keyrest.server import RestServer
from keyrest.signals import StopSignals
from keyrest.tls import TlsFiles
from keyrest.upkeep import Upkeep
from keywatch.looks import Look

_log = structlog.get_logger(__name__)

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while another wants it. A thread back from
the store or the HSM takes it, and with Python's 5 ms the event loop, and with it every
other caller, would wait that long for each of them."""

_OTHER_DESCRIPTORS = 200
"""Open files besides connections: store, token, audit, issuers, libraries."""


def run(
    settings: Settings, *, listeners: Sequence[socket.socket] | None = None, worker: int = 0
) -> None:
    """Serve until SIGTERM or SIGINT; blocks, and belongs in the main thread.

    Args:
        settings: at least one issuer must be among them.
        listeners: listening sockets, this worker's own first; ``None`` opens the one
            that the settings name. They are closed in the end.
        worker: this process's number among those that share the port, from 0; its
            metrics are so many ports above ``rest.health_address``.

    Raises:
        SetupError: not initialised, another uid, or token, PIN, store, port, policy
            or certificate unusable.
        UnavailableError: token or store did not answer at the start.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    with ExitStack() as stack:
        opened = open_listeners(settings.rest) if listeners is None else listeners
        for listener in opened:
            stack.callback(listener.close)
        _allow_descriptors(settings.rest.connections_max + _OTHER_DESCRIPTORS)
        # Here and not in a parent: a PKCS#11 module must be loaded after a fork.
        metrics = RestMetrics()
        core = stack.enter_context(open_core(settings, FACE, observe=metrics.observe_token))
        signals = stack.enter_context(StopSignals())
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_serve(core, opened, signals, metrics, worker))
        _log.info("stopped")


async def _serve(
    core: Core,
    listeners: Sequence[socket.socket],
    signals: StopSignals,
    metrics: RestMetrics,
    worker: int,
) -> None:
    settings, rest = core.settings, core.settings.rest
    tls = TlsFiles(settings, core.clock)
    policy = PolicyFile(settings.policy_file, [issuer.name for issuer in rest.issuers], core.clock)
    # The first use of each key would otherwise wait for a disk.
    core.budget.open_credit()
    # Apart, so that a store under load delays neither a new policy nor a certificate.
    of_files = Upkeep({"policy": policy.refresh, "certificate": tls.refresh})
    store = Look("the store", core.cache.keep_fresh, core.clock, explain=_explained)
    of_store = Upkeep({"store": store.take, "uses": core.budget.settle})
    async with Authenticator(rest.issuers, rest.leeway, core.clock) as authenticator:
        checks = _checks(tls, signals)
        app = rest_app(core, authenticator, policy, checks=checks, count=metrics.count)
        server = RestServer(app, tls, Limits(connections_max=rest.connections_max))
        of_files.run_once()
        of_store.run_once()
        with (
            of_files,
            of_store,
            seen_from_outside(
                core,
                metrics,
                store=store,
                checks={**checks_of(core, authenticator, policy), **checks},
                connections=lambda: server.connection_count,
                worker=worker,
            ),
        ):
            _log.info("serving REST", url=url_of(listeners[0]), pid=os.getpid())
            await server.serve(listeners, signals.event())


def _checks(tls: TlsFiles, signals: StopSignals) -> dict[str, Check]:
    def certificate() -> Finding:
        return Finding(Outcome.DEGRADED, tls.fault) if tls.fault else Finding()

    def running() -> Finding:
        # Whoever sends callers here shall send them elsewhere, while those who still
        # come are answered.
        return Finding(Outcome.FAILED, "a signal has come") if signals.has_come else Finding()

    return {"certificate": certificate, "running": running}


def _explained(error: Exception) -> str:
    """Say in safe words why a look at the store failed."""
    return error.message if isinstance(error, KeyplaneError) else "a fault of ours; see the log"


def _allow_descriptors(count: int) -> None:
    """Let this process open so many files, as far as the administrator allows.

    The usual 1,024 are fewer than the connections that the settings promise.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if possible < count:
        _log.warning("too few open files are allowed for all connections", allowed=hard, need=count)
    if soft != resource.RLIM_INFINITY and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
