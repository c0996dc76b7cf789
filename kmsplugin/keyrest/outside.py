"""A process of the REST face seen from outside: metrics and health on an address of their own.

The REST port has ``/livez`` and ``/readyz`` too, for those who send callers there: they
prove token and store at that moment. Here everything comes from memory, and reasons are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from keycore.bootstrap import Core
from keycore.service.readiness import Finding
from keyrest.health import Check
from keyrest.metrics import RestMetrics
from keywatch import outside
from keywatch.audit import audit_finding
from keywatch.health import Health, failed_if
from keywatch.looks import Look


@contextmanager
def seen_from_outside(
    core: Core,
    metrics: RestMetrics,
    *,
    store: Look,
    checks: Mapping[str, Check],
    connections: Callable[[], int],
    worker: int,
) -> Iterator[str]:
    """Answer ``/metrics``, ``/livez`` and ``/readyz`` until the block ends.

    Args:
        core: the use cases.
        metrics: of this process.
        store: how the last look at the store went.
        checks: further checks by name; called in another thread than the event loop's.
        connections: tells how many are open; likewise.
        worker: this process's number, from 0.

    Yields:
        Where it listens; empty when it does not.
    """
    metrics.follow(core, store, connections)

    def findings() -> Mapping[str, Finding]:
        return {
            "token": failed_if(core.token.condition().fault),
            "store": store.finding(),
            "audit": audit_finding(core.auditor.condition(), strict=True),
            **{name: check() for name, check in checks.items()},
        }

    health = Health(core.token.condition, findings)
    address = core.settings.rest.health_address
    with outside.seen_from_outside(address, metrics.all, health, worker=worker) as where:
        yield where
