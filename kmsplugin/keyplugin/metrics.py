"""What Prometheus is told about the provider. ``docs/metrics.md`` is the list.

Calls and uses of the token are counted as they happen. Everything else is taken from
the provider's memory when somebody asks, so a scrape makes no call to the HSM or the
store. Every label has few values, and none holds anything that a caller sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from keycore.ports import TokenCondition
from keycore.service.kms_health import KmsReport
from keyplugin.gauges import ReportCollector
from keyplugin.interceptors import in_pool, pool_of, with_behaviour

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0)
"""Bounds of all histograms: upstream asks for a Decrypt within 10 ms and an Encrypt within
100 ms, and kube-apiserver gives up after 3 s (``kms-v2-contract``, when it calls)."""

UNKNOWN_METHOD: Final = "unknown"
"""The label of calls of a method that there is not."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], _Handler | None]"
_Behaviour: TypeAlias = "Callable[[Any, Any], Any]"
_Count: TypeAlias = "Callable[[], int]"


class ProviderMetrics:
    """All metrics of one provider process, in a registry of their own."""

    def __init__(self) -> None:
        """Count nothing yet; :meth:`follow` adds what the provider itself knows."""
        # The library's global registry would add to it whatever else is imported.
        self._registry = CollectorRegistry()
        # Otherwise each counter has a second one with the time at which it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self._registry)
        self._calls = Counter(
            "keyplane_kms_calls",
            "Calls of kube-apiserver, by method and gRPC code.",
            ["method", "code"],
            registry=self._registry,
        )
        self._call_seconds = self._histogram(
            "keyplane_kms_call_seconds",
            "How long calls took, waiting included.",
            "method",
        )
        self._uses = _TokenUses(
            Counter(
                "keyplane_token_calls",
                "Uses of the token, by operation and outcome.",
                ["operation", "outcome"],
                registry=self._registry,
            ),
            self._histogram(
                "keyplane_token_call_seconds",
                "How long uses of the token took, waiting for a turn included.",
                "operation",
            ),
        )
        self._waiting = Gauge(
            "keyplane_kms_token_calls_unfinished",
            "Encrypt and Decrypt calls that run or wait for a thread now.",
            registry=self._registry,
        )
        build = Gauge(
            "keyplane_build_info", "The version that runs.", ["version"], registry=self._registry
        )
        build.labels(version("keyplane")).set(1)

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
    ) -> None:
        """Show what the provider of this name and its token know of themselves."""
        self._registry.register(ReportCollector(provider, report, condition))

    def render(self) -> bytes:
        """Return everything in the text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, [label], buckets=SECONDS, registry=self._registry)


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


class _TokenUses:
    """Counts uses of the token; as cheap as it can be, because a Decrypt waits for it."""

    def __init__(self, uses: Counter, seconds: Histogram) -> None:
        self._uses = uses
        self._seconds = seconds
        self._bound: dict[tuple[str, str], tuple[Counter, Histogram]] = {}

    def add(self, operation: str, outcome: str, seconds: float) -> None:
        bound = self._bound.get((operation, outcome))
        if bound is None:
            bound = self._uses.labels(operation, outcome), self._seconds.labels(operation)
            self._bound[operation, outcome] = bound
        bound[0].inc()
        bound[1].observe(seconds)
