"""What Prometheus is told about the provider. ``docs/metrics.md`` is the list.

Calls and uses of the token are counted as they happen. Everything else is taken from
the provider's memory when somebody asks, so a scrape makes no call to the HSM or the
store. Every label has few values, and none holds anything that a caller sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import grpc
from prometheus_client import Counter, Histogram

from keycore.ports import AuditCondition, TokenCondition
from keycore.service.kms_health import KmsReport
from keycore.settings import StoreSettings
from keyplugin.gauges import REPORT, follow_provider
from keyplugin.interceptors import in_pool, pool_of, with_behaviour
from keyplugin.servicer import FACE
from keywatch.audit import AUDIT, follow_audit
from keywatch.families import BUILD, PROCESS, Family, Kind
from keywatch.metrics import Metrics
from keywatch.store import STORE, follow_store
from keywatch.token import TOKEN, TokenUses, follow_token

CALLS: Final = Family(
    "keyplane_kms_calls_total",
    Kind.COUNTER,
    "Calls by method (Status, Encrypt, Decrypt, unknown) and gRPC code; CANCELLED when the API "
    "server had given up before the answer.",
    ("method", "code"),
)
CALL_SECONDS: Final = Family(
    "keyplane_kms_call_seconds",
    Kind.HISTOGRAM,
    "How long calls took, from their arrival, waiting for a thread included.",
    ("method",),
)
UNFINISHED: Final = Family(
    "keyplane_kms_token_calls_unfinished",
    Kind.GAUGE,
    "Encrypt and Decrypt calls that run or wait for a thread; beyond 1024 they are refused.",
)

FAMILIES: Final = (
    BUILD,
    *PROCESS,
    CALLS,
    CALL_SECONDS,
    UNFINISHED,
    *REPORT,
    *TOKEN,
    *STORE,
    *AUDIT,
)
"""Everything that a provider process tells."""

UNKNOWN_METHOD: Final = "unknown"
"""The label of calls of a method that there is not."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], _Handler | None]"
_Behaviour: TypeAlias = "Callable[[Any, Any], Any]"
_Count: TypeAlias = "Callable[[], int]"


class ProviderMetrics:
    """All metrics of one provider process.

    Attributes:
        all: where they are shown.
    """

    def __init__(self) -> None:
        """Count nothing yet; :meth:`follow` adds what the provider itself knows."""
        self.all = Metrics(FACE)
        self._calls = self.all.counter(CALLS)
        self._call_seconds = self.all.histogram(CALL_SECONDS)
        self._waiting = self.all.gauge(UNFINISHED)
        self._uses = TokenUses(self.all)

    def observe_token(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one use of the token (:data:`keycore.ports.TokenObserver`)."""
        self._uses.add(operation, outcome, seconds)

    def call_counter(self, waiting: _Count) -> grpc.ServerInterceptor:
        """Return what counts the calls of one server.

        Args:
            waiting: tells how many calls run or wait for the token now.
        """
        self._waiting.set_function(waiting)
        return CallCounter(self._calls, self._call_seconds)

    def follow(
        self,
        provider: str,
        report: Callable[[], KmsReport],
        condition: Callable[[], TokenCondition],
        *,
        store: StoreSettings,
        audit: Callable[[], AuditCondition],
    ) -> None:
        """Show what the provider of this name, its token, store and log know of themselves.

        Args:
            provider: its name.
            report: of the provider.
            condition: of the token.
            store: which store it is.
            audit: condition of the audit log; all of them answer from memory.
        """
        follow_provider(self.all, provider, report)
        follow_token(self.all, condition)
        follow_store(
            self.all,
            store,
            fault=lambda: report().store_fault,
            age_seconds=lambda: report().refreshed_seconds_ago,
        )
        follow_audit(self.all, audit)

    def render(self) -> bytes:
        """Return everything in the text format (:data:`keywatch.metrics.CONTENT_TYPE`)."""
        return self.all.render()


class CallCounter(grpc.ServerInterceptor):
    """Counts and times every call that reaches our code.

    It belongs first in the server's list, so that the time in the queue and the
    refusals of a full queue are seen. grpcio itself answers messages that it cannot
    read and calls beyond its own bound; those are not counted.
    """

    def __init__(self, calls: Counter, seconds: Histogram) -> None:
        """Count in ``calls`` (method, code) and ``seconds`` (method)."""
        self._calls = calls
        self._seconds = seconds
        self._meters: dict[str, _Meter] = {}
        self._unknown = calls.labels(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name)

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Start the watch now, in grpcio's polling thread, when the call has just come in."""
        started = time.perf_counter()
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            self._unknown.inc()
            return handler
        counted = _counted(handler.unary_unary, self._meter(handler_call_details.method), started)
        return with_behaviour(handler, counted)

    def _meter(self, method: str) -> _Meter:
        # Only methods that exist come here, so callers cannot make it grow.
        meter = self._meters.get(method)
        if meter is None:
            meter = _Meter(method.rpartition("/")[2], self._calls, self._seconds)
            self._meters[method] = meter
        return meter


class _Meter:
    """The counters of one method, bound to their labels ahead: that takes a third of the time."""

    def __init__(self, method: str, calls: Counter, seconds: Histogram) -> None:
        self._codes = {code: calls.labels(method, code.name) for code in grpc.StatusCode}
        self._seconds = seconds.labels(method)

    def add(self, code: grpc.StatusCode, started: float) -> None:
        self._codes[code].inc()
        self._seconds.observe(time.perf_counter() - started)


def _counted(behaviour: _Behaviour, meter: _Meter, started: float) -> _Behaviour:
    def counted(request: Any, context: Any) -> Any:
        try:
            answer = behaviour(request, context)
        except BaseException:
            # The interceptors within have set the code already, and raise to end the call.
            meter.add(context.code() or grpc.StatusCode.UNKNOWN, started)
            raise
        # Who has gone meanwhile took it for a failure, most probably for too slow.
        gone = not context.is_active()
        meter.add(grpc.StatusCode.CANCELLED if gone else grpc.StatusCode.OK, started)
        return answer

    # grpcio looks on the outermost behaviour for the pool that it shall run in.
    return in_pool(counted, pool_of(behaviour))
