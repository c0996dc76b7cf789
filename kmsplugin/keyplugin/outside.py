"""The provider seen from outside: metrics and health on an address of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import structlog

from keycore.bootstrap import Core
from keyplugin.health import Health
from keyplugin.listener import Answer, listening
from keyplugin.metrics import CONTENT_TYPE, ProviderMetrics

_log = structlog.get_logger(__name__)


@contextmanager
def seen_from_outside(core: Core, metrics: ProviderMetrics) -> Iterator[str]:
    """Answer ``/metrics``, ``/livez`` and ``/readyz`` until the block ends.

    An address that cannot be had is logged, and the provider serves without it.

    Yields:
        Where it listens; empty when it does not.
    """
    provider = core.settings.provider
    metrics.follow(provider.name, core.kms.report, core.token.condition)
    if not provider.health_address:
        yield ""
        return
    health = Health(core.kms.report, core.token.condition)
    pages = {
        "/metrics": lambda _query: Answer(HTTPStatus.OK, metrics.render(), CONTENT_TYPE),
        "/livez": health.live,
        "/readyz": health.ready,
    }
    with listening(provider.health_address, pages) as address:
        if address:
            _log.info("serving metrics and health", address=address)
        yield address
