"""Starts the operator and keeps it running until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import closing, suppress
from typing import Any

import kopf
from kubernetes import client
from tenacity import AsyncRetrying, RetryCallState, wait_exponential

from keycore.bootstrap import open_core
from keycore.settings import Settings
from keyoperator.cluster import Cluster, ClusterError, load_configuration
from keyoperator.errors import explain
from keyoperator.handlers import register
from keyoperator.metrics import FACE, KnownKeys, OperatorMetrics
from keyoperator.outside import CLUSTER_SILENT_SECONDS, seen_from_outside
from keyoperator.reconcile import Reconciler
from keyoperator.resource import FINALIZER, GROUP
from keywatch.looks import Look

logger = logging.getLogger(__name__)

_THREADS = 8
"""Handlers at work at once. The HSM does one thing at a time, so more only wait for it."""

_REQUEST_SECONDS = 30
_CONNECT_SECONDS = 10

_WATCH_SECONDS = 300
"""A watch is renewed after this time, so that no dead connection is listened to for longer."""

_BACKOFFS_SECONDS = (1, 1, 2, 3, 5, 5, 5, 5)
"""Short steps: an API server that is back is found within five seconds."""

_EVENT_BACKOFFS_SECONDS = (1, 2, 5)
_RESTART_SECONDS_MAX = 30
_EXIT_SECONDS_MAX = 60


def run(settings: Settings) -> None:
    """Serve Keys until SIGTERM or SIGINT; blocks, and belongs in the main thread.

    An API server or CRD that is not there yet is waited for.

    Raises:
        SetupError: not initialised, another uid, token, PIN, store or Kubernetes
            configuration unusable.
        UnavailableError: token or store did not answer at the start.
    """
    _limit_logs(settings)
    metrics, resync = OperatorMetrics(), settings.operator.resync
    with (
        open_core(settings, FACE, observe=metrics.observe_token) as core,
        closing(Cluster(load_configuration(settings.operator.kubeconfig))) as cluster,
    ):
        store = Look("the store", core.cache.refresh, core.clock, explain=explain)
        api_server = Look(
            "the API server",
            cluster.check,
            core.clock,
            explain=explain,
            silent_seconds=CLUSTER_SILENT_SECONDS,
        )
        keys = KnownKeys(core.clock, resync_seconds=resync.total_seconds())
        registry = register(Reconciler(core, cluster, metrics=metrics, keys=keys), resync)
        kopf.on.login(registry=registry)(_login_with(settings))
        with seen_from_outside(core, metrics, keys, store=store, cluster=api_server):
            asyncio.run(_Runner(registry, api_server).run())


class _Runner:
    """Runs kopf, and starts it again when it gives up, until a signal comes."""

    def __init__(self, registry: kopf.OperatorRegistry, cluster: Look) -> None:
        self._registry = registry
        self._cluster = cluster
        self._stop = asyncio.Event()
        self._waits_for = ""

    async def run(self) -> None:
        self._catch_signals()
        retrying = AsyncRetrying(
            wait=wait_exponential(max=_RESTART_SECONDS_MAX),
            stop=lambda _: self._stop.is_set(),
            sleep=self._sleep,
            before_sleep=self._prepare_next,
            retry_error_callback=lambda _: None,
        )
        await retrying(self._run_once)

    async def _run_once(self) -> None:
        if self._stop.is_set():
            return
        await asyncio.to_thread(self._cluster.take)
        self._waits_for = ""
        logger.info("operator: serving Keys")
        await self._serve()

    async def _serve(self) -> None:
        # kopf ends by itself on signals that come after it has set its own handlers.
        # One that came just before is seen here.
        stopping = asyncio.create_task(self._stop.wait())
        serving = asyncio.create_task(
            kopf.operator(
                registry=self._registry,
                settings=kopf_settings(),
                clusterwide=True,
                standalone=True,
            )
        )
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, serving):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    def _prepare_next(self, state: RetryCallState) -> None:
        self._log_failure(state.outcome.exception() if state.outcome else None)
        # kopf has put its own handlers in their place, and they are of no use any more.
        self._catch_signals()

    def _log_failure(self, error: BaseException | None) -> None:
        if not isinstance(error, ClusterError):
            # kopf has logged the traceback already, twice.
            logger.error("operator: kopf gave up (%s) and is started again", type(error).__name__)
        elif self._waits_for != error.message:
            self._waits_for = error.message
            logger.warning("operator: waiting: %s", explain(error))

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


def kopf_settings() -> kopf.OperatorSettings:
    """Return how kopf is to watch, to retry and to leave marks on our resources."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = _EXIT_SECONDS_MAX
    # The CRD is waited for before kopf starts, and one that is deleted later makes
    # kopf give up; so it needs no permission to watch CRDs.
    settings.scanning.disabled = True
    settings.posting.loggers = False
    settings.posting.default_backoffs = _EVENT_BACKOFFS_SECONDS
    settings.posting.reporting_component = "keyplane-operator"
    settings.posting.reporting_instance = socket.gethostname()
    settings.posting.event_name_prefix = "keyplane-"
    settings.execution.max_workers = _THREADS
    settings.networking.request_timeout = _REQUEST_SECONDS
    settings.networking.connect_timeout = _CONNECT_SECONDS
    settings.networking.error_backoffs = _BACKOFFS_SECONDS
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.watching.client_timeout = _WATCH_SECONDS + _REQUEST_SECONDS
    # A resource that is deleted while its timer runs is let go soon after.
    settings.background.cancellation_polling = 1
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP, v1=False)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, v1=False)
    return settings


def connection_info(configuration: client.Configuration) -> kopf.ConnectionInfo:
    """Return a connection of the Kubernetes client in the words of kopf."""
    scheme, _, token = (configuration.get_api_key_with_prefix("BearerToken") or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        # Named explicitly: a CA bundle in the environment must not take its place.
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


def _login_with(settings: Settings) -> Any:
    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(load_configuration(settings.operator.kubeconfig))

    return login


def _limit_logs(settings: Settings) -> None:
    # At debug level the client logs whole answers, and those hold key material.
    logging.getLogger("kubernetes").setLevel(logging.INFO)
    # kopf writes two lines for each look at each Key; what has changed is logged by us.
    level = logging.DEBUG if settings.log.level == "debug" else logging.WARNING
    for name in ("kopf.objects", "kopf.activities", "kopf._core"):
        logging.getLogger(name).setLevel(level)
