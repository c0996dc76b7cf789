"""What surrounds every call: its message, its place in a queue, and its end without surprises."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Never, ParamSpec, TypeAlias, TypeVar, cast

import grpc
import structlog

from keycore.errors import KeyplaneError
from keyplugin.errors import NOT_A_REQUEST, OVERLOADED, UNEXPECTED, describe, grpc_code_of
from keyplugin.servicer import printable
from keyplugin.silence import SilenceWatch

_log = structlog.get_logger(__name__)

# Asked for each call, and much cheaper than a line that the logger then drops.
_levels = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], _Handler | None]"
_Behaviour = Callable[[Any, grpc.ServicerContext], Any]
_P = ParamSpec("_P")
_T = TypeVar("_T")


class MessageInterceptor(grpc.ServerInterceptor):
    """Takes the message of each call, and gives up the calls whose message does not come.

    grpcio waits for it in the thread that shall answer, and for ever, so that a few
    clients that stop in the middle of a call would stop everybody else. To a client
    nothing differs: on the wire a call with one message is a stream of one.

    It belongs first in the server's list, so that it is the outermost.
    """

    def __init__(self, watch: SilenceWatch, refusals: ThreadPoolExecutor) -> None:
        """Give up what ``watch`` finds silent; calls that run in ``refusals`` need no message."""
        self._watch = watch
        self._refusals = refusals

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Wrap the method that was called, if there is one of that name."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        pool = pool_of(handler.unary_unary)
        behaviour = (
            _refusing(handler.unary_unary)
            if pool is self._refusals
            else self._receiving(handler, handler_call_details.method)
        )
        return grpc.stream_unary_rpc_method_handler(
            in_pool(behaviour, pool), response_serializer=handler.response_serializer
        )

    def _receiving(self, handler: _Handler, method: str) -> _Behaviour:
        behaviour, watch, arrived = handler.unary_unary, self._watch, self._watch.round

        def receive(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            watch.begin(context, method, arrived)
            try:
                # Raises once the call has been given up, by the client or by the watch.
                message = next(messages, None)
            finally:
                watch.end(context)
            request = _deserialised(handler, message, method)
            if request is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, NOT_A_REQUEST)
            return behaviour(request, context)  # type: ignore[misc]

        return receive


def _deserialised(handler: _Handler, message: bytes | None, method: str) -> Any:
    """Return the request, or ``None`` for what is none."""
    if message is None or handler.request_deserializer is None:
        return message
    try:
        return handler.request_deserializer(message)
    except Exception:  # noqa: BLE001 - whatever it is, the bytes are no message of ours.
        _log.warning("a call failed: it holds no request", method=method)
        return None


def _refusing(behaviour: _Behaviour) -> _Behaviour:
    return lambda _, context: behaviour(None, context)


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns every exception into a code and a text that may be shown, and logs it."""

    def __init__(self) -> None:
        """Wrap each method when it is called for the first time."""
        self._wrapped: dict[str, _Handler] = {}

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Wrap the method that was called, if there is one of that name."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            wrapped = with_behaviour(handler, _answering(handler.unary_unary, method))
            self._wrapped[method] = wrapped
        return wrapped


def _answering(behaviour: _Behaviour, method: str) -> _Behaviour:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        started = time.perf_counter()
        try:
            reply = behaviour(request, context)
        except KeyplaneError as error:
            code, text = grpc_code_of(error), describe(error)
            _log.warning(
                "a call failed", code=code.name, error=text, **_facts(method, request, started)
            )
        except Exception:  # noqa: BLE001 - the last resort: grpcio would send its text.
            code, text = grpc.StatusCode.INTERNAL, UNEXPECTED
            _log.exception(
                "a call failed unexpectedly", code=code.name, **_facts(method, request, started)
            )
        else:
            if _levels.isEnabledFor(logging.DEBUG):
                _log.debug("a call was answered", **_facts(method, request, started))
            return reply
        # Outside of the handlers above, because abort() works by an exception too.
        return context.abort(code, text)

    return answer


def _facts(method: str, request: Any, started: float) -> dict[str, str | float]:
    return {
        "method": method.rpartition("/")[2],
        "uid": printable(getattr(request, "uid", "")),
        "milliseconds": round(1000 * (time.perf_counter() - started), 3),
    }


class CountingPool(ThreadPoolExecutor):
    """Threads that take calls from one queue, and a count of those not finished yet.

    grpcio wants this class, but of what ``submit`` returns it uses one method. So no
    future with a lock and a condition is made for each call, nor is a lock fought for.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        """Run up to ``threads`` calls at once; ``name`` shows in thread dumps."""
        super().__init__(threads, thread_name_prefix=name)
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        # Adding and discarding are atomic, so nobody waits for a lock to be counted.
        self._unfinished: set[_Call] = set()
        self._workers = [
            threading.Thread(target=self._work, name=f"{name}_{number}")
            for number in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def unfinished(self) -> int:
        """Calls that run or wait now."""
        return len(self._unfinished)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run ``fn`` as soon as a thread is free."""
        call = _Call(partial(fn, *args, **kwargs))
        self._unfinished.add(call)
        self._waiting.put(call)
        return cast("Future[_T]", call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """End the threads when all calls that wait now are done."""
        for _ in self._workers:
            self._waiting.put(None)
        for worker in self._workers if wait else ():
            worker.join()

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                call.run()
            except Exception:  # noqa: BLE001 - the thread is needed for the next call.
                _log.exception("a call ended unexpectedly")
            finally:
                self._unfinished.discard(call)
                call.end()


class _Call:
    """One call; as much of a future as grpcio uses."""

    __slots__ = ("_callbacks", "_ended", "run")

    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run
        self._callbacks: list[Callable[[_Call], object]] = []
        self._ended = False

    def add_done_callback(self, callback: Callable[[_Call], object]) -> None:
        self._callbacks.append(callback)
        if self._ended:
            self._call_back()

    def end(self) -> None:
        self._ended = True
        self._call_back()

    def _call_back(self) -> None:
        # Both threads may come here at once; each callback is taken by one of them.
        while self._callbacks:
            with suppress(IndexError):
                self._callbacks.pop()(self)


class LaneInterceptor(grpc.ServerInterceptor):
    """Gives some methods a thread pool of their own with a bounded queue before it."""

    def __init__(
        self,
        methods: Collection[str],
        pool: CountingPool,
        *,
        waiting_max: int,
        refusals: ThreadPoolExecutor,
    ) -> None:
        """Run ``methods`` (full names) in ``pool``, and refuse them beyond ``waiting_max``.

        A refusal runs in ``refusals``, or a flood of them would stop Status.
        """
        self._methods = methods
        self._pool = pool
        self._waiting_max = waiting_max
        self._refusals = refusals
        self._placed: dict[str, _Handler] = {}

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Choose where the call runs; this itself runs in grpcio's one polling thread."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        if method not in self._methods:
            return handler
        if self._pool.unfinished >= self._waiting_max:
            return with_behaviour(handler, _placed(_refuse, self._refusals))
        placed = self._placed.get(method)
        if placed is None:
            placed = with_behaviour(handler, _placed(handler.unary_unary, self._pool))
            self._placed[method] = placed
        return placed


def _placed(behaviour: _Behaviour, pool: ThreadPoolExecutor) -> _Behaviour:
    def placed(request: Any, context: grpc.ServicerContext) -> Any:
        return behaviour(request, context)

    return in_pool(placed, pool)


def in_pool(behaviour: _Behaviour, pool: ThreadPoolExecutor | None) -> _Behaviour:
    """Have a behaviour run in a pool of its own; ``None`` leaves it in the server's."""
    # NB: an experimental feature of grpcio: its server runs a behaviour that has
    # this attribute in that pool, and not in the server's own.
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behaviour


def _refuse(_: Any, context: grpc.ServicerContext) -> Never:
    _log.warning("a call failed", code=grpc.StatusCode.RESOURCE_EXHAUSTED.name, error=OVERLOADED)
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, OVERLOADED)


def pool_of(behaviour: _Behaviour) -> Any:
    """Return the pool that :func:`in_pool` has given to a behaviour, or ``None``."""
    return getattr(behaviour, "experimental_thread_pool", None)


def with_behaviour(handler: _Handler, behaviour: _Behaviour) -> _Handler:
    """Return a handler that takes and gives the same messages, and does something else."""
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
