"""What surrounds every call: its place in a queue, and its end as an answer without surprises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Never, ParamSpec, TypeAlias, TypeVar

import grpc
import structlog

from keycore.errors import KeyplaneError
from keyplugin.errors import OVERLOADED, UNEXPECTED, describe, grpc_code_of

_log = structlog.get_logger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], _Handler | None]"
_Behaviour = Callable[[Any, grpc.ServicerContext], Any]
_P = ParamSpec("_P")
_T = TypeVar("_T")


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns every exception into a code and a text that may be shown."""

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Wrap the method that was called, if there is one of that name."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return _with_behaviour(
            handler, _answering(handler.unary_unary, handler_call_details.method)
        )


def _answering(behaviour: _Behaviour, method: str) -> _Behaviour:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behaviour(request, context)
        except KeyplaneError as error:
            code, text = grpc_code_of(error), describe(error)
        except Exception:  # noqa: BLE001 - the last resort: grpcio would send its text.
            _log.exception("a call failed unexpectedly", method=method)
            code, text = grpc.StatusCode.INTERNAL, UNEXPECTED
        # Outside of the handlers above, because abort() works by an exception too.
        return context.abort(code, text)

    return answer


class CountingPool(ThreadPoolExecutor):
    """A thread pool that tells how many calls it has not finished."""

    def __init__(self, threads: int, *, name: str) -> None:
        """Run up to ``threads`` calls at once; ``name`` shows in thread dumps."""
        super().__init__(threads, thread_name_prefix=name)
        self._unfinished = 0
        self._counting = threading.Lock()

    @property
    def unfinished(self) -> int:
        """Calls that run or wait now."""
        return self._unfinished

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run ``fn`` as soon as a thread is free."""
        future = super().submit(fn, *args, **kwargs)
        self._count(1)
        future.add_done_callback(lambda _: self._count(-1))
        return future

    def _count(self, step: int) -> None:
        with self._counting:
            self._unfinished += step


class LaneInterceptor(grpc.ServerInterceptor):
    """Gives some methods a thread pool of their own with a bounded queue before it.

    It belongs first in the server's list, so that it is the outermost: grpcio looks
    for the pool on the behaviour that the first interceptor returns.
    """

    def __init__(self, methods: Collection[str], pool: CountingPool, *, waiting_max: int) -> None:
        """Run ``methods`` (full names) in ``pool``, and refuse them beyond ``waiting_max``."""
        self._methods = methods
        self._pool = pool
        self._waiting_max = waiting_max

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Choose where the call runs; this itself runs in grpcio's one polling thread."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        if handler_call_details.method not in self._methods:
            return handler
        if self._pool.unfinished >= self._waiting_max:
            return _with_behaviour(handler, _refuse)
        return _with_behaviour(handler, _placed(handler.unary_unary, self._pool))


def _placed(behaviour: _Behaviour, pool: ThreadPoolExecutor) -> _Behaviour:
    def placed(request: Any, context: grpc.ServicerContext) -> Any:
        return behaviour(request, context)

    # NB: an experimental feature of grpcio: its server runs a behaviour that has
    # this attribute in that pool, and not in the server's own.
    placed.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return placed


def _refuse(_: Any, context: grpc.ServicerContext) -> Never:
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, OVERLOADED)


def _with_behaviour(handler: _Handler, behaviour: _Behaviour) -> _Handler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
