"""What Prometheus is told about a process of the REST face. ``docs/metrics.md`` is the list.

Operations and statuses are those that we have ourselves, so no label grows by what a
caller sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Histogram

from keycore.bootstrap import Core
from keyrest.gates import FACE
from keywatch.audit import AUDIT, follow_audit
from keywatch.families import BUILD, PROCESS, Family, Kind
from keywatch.looks import Look
from keywatch.metrics import Metrics
from keywatch.store import STORE, follow_store
from keywatch.token import TOKEN, TokenUses, follow_token

REQUESTS: Final = Family(
    "keyplane_rest_requests_total",
    Kind.COUNTER,
    "Answered requests, by operation and HTTP status. The operation is that of the audit line: "
    "key.wrap, key.create and so on; page for probes and the API document; http.request for "
    "what is refused before it is known what was asked for.",
    ("operation", "status"),
)
REQUEST_SECONDS: Final = Family(
    "keyplane_rest_request_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival until its answer was ready, waiting for a thread included.",
    ("operation",),
)
CONNECTIONS: Final = Family(
    "keyplane_rest_connections",
    Kind.GAUGE,
    "TLS connections that are open now.",
)
USES_RATIO_MAX: Final = Family(
    "keyplane_rest_uses_ratio_max",
    Kind.GAUGE,
    "The largest share of its uses that one of the key versions which this process encrypts with "
    "has used up in all processes, as of its last reservation; at 1 that key is refused until it "
    "is rotated. 0 for less than a thousandth; absent until there is one.",
)

FAMILIES: Final = (
    BUILD,
    *PROCESS,
    REQUESTS,
    REQUEST_SECONDS,
    CONNECTIONS,
    USES_RATIO_MAX,
    *TOKEN,
    *STORE,
    *AUDIT,
)
"""Everything that a process of the REST face tells."""


class RestMetrics:
    """All metrics of one process of the REST face.

    Attributes:
        all: where they are shown.
    """

    def __init__(self) -> None:
        """Count nothing yet; :meth:`follow` adds what the process itself knows."""
        self.all = Metrics(FACE)
        self._requests = self.all.counter(REQUESTS)
        self._seconds = self.all.histogram(REQUEST_SECONDS)
        self._connections = self.all.gauge(CONNECTIONS)
        self._uses = TokenUses(self.all)
        # Bound to their labels ahead, because a wrap waits for it.
        self._bound: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def observe_token(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one use of the token (:data:`keycore.ports.TokenObserver`)."""
        self._uses.add(operation, outcome, seconds)

    def count(self, operation: str, status: int, seconds: float) -> None:
        """Count one answer (:data:`keyrest.app.RequestCount`)."""
        bound = self._bound.get((operation, status))
        if bound is None:
            bound = self._requests.labels(operation, status), self._seconds.labels(operation)
            self._bound[operation, status] = bound
        bound[0].inc()
        bound[1].observe(seconds)

    def follow(self, core: Core, store: Look, connections: Callable[[], int]) -> None:
        """Show what the process knows.

        Args:
            core: its use cases.
            store: how the last look at the store went.
            connections: tells how many are open.
        """
        self._connections.set_function(connections)
        self.all.follow((USES_RATIO_MAX,), lambda: {USES_RATIO_MAX: uses_ratio_max(core)})
        follow_token(self.all, core.token.condition)
        follow_store(
            self.all, core.settings.store, fault=store.fault, age_seconds=store.age_seconds
        )
        follow_audit(self.all, core.auditor.condition)


def uses_ratio_max(core: Core) -> float | None:
    """Return the largest share of its uses that a version of a cached key has used up.

    From memory. A version that a rotation has replaced is no active one of its key any
    more and does not count.
    """
    versions = core.cache.encrypting_versions()
    ratios = (core.budget.used_ratio(version_id) for version_id in versions)
    return max((ratio for ratio in ratios if ratio is not None), default=None)
