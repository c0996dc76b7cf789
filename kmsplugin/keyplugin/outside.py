"""The provider seen from outside: metrics and health on an address of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keycore.bootstrap import Core
from keyplugin.health import provider_health
from keyplugin.metrics import ProviderMetrics
from keywatch import outside


@contextmanager
def seen_from_outside(core: Core, metrics: ProviderMetrics) -> Iterator[str]:
    """Answer ``/metrics``, ``/livez`` and ``/readyz`` until the block ends.

    Yields:
        Where it listens; empty when it does not.
    """
    settings, report, condition = core.settings, core.kms.report, core.token.condition
    audit = core.auditor.condition
    name = settings.provider.name
    metrics.follow(name, report, condition, store=settings.store, audit=audit)
    health = provider_health(report, condition, audit)
    address = settings.provider.health_address
    with outside.seen_from_outside(address, metrics.all, health) as where:
        yield where
