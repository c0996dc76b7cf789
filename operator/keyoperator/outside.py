"""The operator seen from outside: metrics and health on an address of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from keycore.bootstrap import Core
from keycore.service.readiness import Finding
from keyoperator.metrics import KnownKeys, OperatorMetrics
from keywatch import outside
from keywatch.audit import audit_finding
from keywatch.health import Health, failed_if
from keywatch.looks import Look, Looking

STORE_SECONDS: Final = 2.0
"""How often the store is looked at, which is one small query."""

CLUSTER_SECONDS: Final = 10.0
"""How often the API server is asked whether it serves Keys. A watch that is broken tells
nobody for minutes."""

CLUSTER_SILENT_SECONDS: Final = 60.0
"""One question may take 20 seconds, and then the next one comes ten seconds later."""


@contextmanager
def seen_from_outside(
    core: Core, metrics: OperatorMetrics, keys: KnownKeys, *, store: Look, cluster: Look
) -> Iterator[str]:
    """Answer ``/metrics``, ``/livez`` and ``/readyz`` until the block ends.

    Args:
        core: the use cases.
        metrics: of this process.
        keys: the Keys that it has looked at.
        store: is taken in the background while the block lasts.
        cluster: likewise.

    Yields:
        Where it listens; empty when it does not, and then nothing is looked at.
    """
    metrics.follow(core, keys, store)

    def findings() -> Mapping[str, Finding]:
        return {
            "token": failed_if(core.token.condition().fault),
            "store": store.finding(),
            "cluster": cluster.finding(),
            "audit": audit_finding(core.auditor.condition(), strict=True),
        }

    address = core.settings.operator.health_address
    health = Health(core.token.condition, findings)
    with outside.seen_from_outside(address, metrics.all, health) as where:
        if not where:
            yield ""
            return
        looking = Looking(store, STORE_SECONDS)
        looking.run_once()
        with looking, Looking(cluster, CLUSTER_SECONDS):
            yield where
