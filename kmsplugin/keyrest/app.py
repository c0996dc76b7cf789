"""The REST face as an ASGI application, from a request to exactly one answer and one audit line.

The audit line is written here when a request is refused here, and by the core once
a use case has been called.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from keycore.bootstrap import Core
from keycore.errors import AuditUnavailableError, KeyplaneError
from keycore.service.readiness import Finding, Outcome
from keyrest.answers import Answer, send_answer
from keyrest.errors import ERROR_TYPE, answer_body, fault_of, headers_of
from keyrest.gates import Authentication, Gates, PolicyInForce, Trail
from keyrest.handlers import Call, Handlers, UseCase
from keyrest.health import Check, Health
from keyrest.openapi.document import PAGE_PATH, openapi_page
from keyrest.request_errors import MethodNotAllowedError
from keyrest.requests import Request
from keyrest.routes import Lane, Operation, Routes

_log = structlog.get_logger(__name__)

Page = Callable[[], Awaitable[Answer]]
"""Something that anybody may read with GET, such as the answer to a probe."""

RequestCount = Callable[[str, int, float], None]
"""Told of every answer: the operation, the status, and the seconds from the request's
arrival until the answer was ready."""

PAGE_OPERATION = "page"
"""What a request for a page is counted as."""

_PAGE_METHODS = ("GET", "HEAD")

THREADS: Mapping[Lane, int] = {
    Lane.QUICK: 16,
    Lane.READING: 4,
    # The store has one writer; a second thread prepares while the first one waits for it.
    Lane.CHANGING: 2,
    # A page of 5000 keys keeps the interpreter busy for a quarter of a second.
    Lane.LISTING: 2,
}
"""Threads for each lane of one process."""


def rest_app(
    core: Core,
    authentication: Authentication,
    policy: PolicyInForce,
    *,
    checks: Mapping[str, Check] | None = None,
    pages: Mapping[str, Page] | None = None,
    count: RequestCount = lambda _operation, _status, _seconds: None,
) -> ASGIApp:
    """Return the REST face on ``core``. Nothing is started here, so nothing must be ended.

    Args:
        core: the use cases.
        authentication: kept fresh by the caller.
        policy: kept fresh by the caller.
        checks: further checks for ``/readyz``, by name.
        pages: further pages that need no credential, by path.
        count: is told of every answer.
    """
    health = Health(core, {**checks_of(core, authentication, policy), **(checks or {})})
    own: dict[str, Page] = {
        "/livez": health.live,
        "/readyz": health.ready,
        PAGE_PATH: openapi_page,
    }
    gates = Gates(core, authentication, policy)
    return RestApp(core, gates, {**own, **(pages or {})}, count=count)


def checks_of(
    core: Core, authentication: Authentication, policy: PolicyInForce
) -> dict[str, Check]:
    """Return the checks of what tells who may come in, by name; any thread may call them."""

    def issuers() -> Finding:
        return _issuers_finding(authentication.faults(), len(core.settings.rest.issuers))

    def policy_file() -> Finding:
        return Finding(Outcome.DEGRADED, policy.fault) if policy.fault else Finding()

    return {"policy": policy_file, "issuers": issuers}


def _issuers_finding(faults: Mapping[str, str], count: int) -> Finding:
    if not faults:
        return Finding()
    reason = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
    return Finding(Outcome.FAILED if len(faults) >= count else Outcome.DEGRADED, reason)


class RestApp:
    """Answers requests: one event loop, and threads for whatever may wait.

    Attributes:
        failures: answers since the start that were faults of our own (500).
    """

    def __init__(
        self, core: Core, gates: Gates, pages: Mapping[str, Page], *, count: RequestCount
    ) -> None:
        """Serve ``core`` to those whom ``gates`` let in, and ``pages`` to everybody."""
        self.failures = 0
        self._count = count
        self._core = core
        self._gates = gates
        self._pages = pages
        self._routes = Routes(Handlers(core))
        self._threads = {lane: CapacityLimiter(count) for lane, count in THREADS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # Nothing here has a life of its own, and websockets are not served.
            return
        started = time.perf_counter()
        request = Request.of(scope)
        trail = Trail.of(request)
        try:
            answer = await self._answer(request, receive, trail)
        except ClientDisconnect:
            # It has asked for nothing in the end: there is nothing to answer or to record.
            return
        except KeyplaneError as error:
            answer = _refusal(error, trail)
        except Exception as error:  # noqa: BLE001 - the last resort: servers would send a trace.
            answer = self._failed(error, trail)
        self._count(trail.operation, answer.status, time.perf_counter() - started)
        await send_answer(answer, request, send)

    async def _answer(self, request: Request, receive: Receive, trail: Trail) -> Answer:
        page = self._pages.get(request.path)
        if page is not None and request.method in _PAGE_METHODS:
            trail.operation = PAGE_OPERATION
            return await page()
        try:
            operation, call = await self._admitted(request, receive, trail)
            use_case = operation.prepare(call)
        except ClientDisconnect:
            raise
        except Exception as error:
            self._record(error, trail)
            raise
        return await self._carried_out(operation, call, use_case)

    async def _admitted(
        self, request: Request, receive: Receive, trail: Trail
    ) -> tuple[Operation, Call]:
        if request.path in self._pages:
            raise MethodNotAllowedError(_PAGE_METHODS)
        route = self._routes.find(request.method, request.path)
        return await self._gates.admit(
            request, route, receive, action=self._routes.action, trail=trail
        )

    async def _carried_out(self, operation: Operation, call: Call, use_case: UseCase) -> Answer:
        # A hop to another thread costs more than a wrap by a token in this machine; a
        # token elsewhere, or the store, would stop every other caller meanwhile.
        if (
            operation.lane is Lane.QUICK
            and self._core.settings.embedded
            and self._core.wrapping.is_warm(call.key_id)
        ):
            return use_case()
        return await run_sync(use_case, limiter=self._threads[operation.lane])

    def _record(self, error: Exception, trail: Trail) -> None:
        """Leave the audit line of a request of which no use case will hear.

        Raises:
            AuditUnavailableError: there is no room for it.
        """
        auditor = self._core.auditor
        if not isinstance(error, KeyplaneError):
            auditor.record(trail.caller, trail.operation, "internal_error", {**trail.facts})
            return
        try:
            with auditor.refusals(trail.caller, trail.operation, **trail.facts):
                raise error
        except AuditUnavailableError:
            # Not even that somebody was refused can be written, so nobody is told it.
            raise
        except KeyplaneError:
            return

    def _failed(self, error: Exception, trail: Trail) -> Answer:
        self.failures += 1
        _log.error(
            "a request failed unexpectedly",
            exc_info=error,
            operation=trail.operation,
            correlation_id=trail.caller.correlation_id,
            failures=self.failures,
        )
        return _refusal(error, trail)


def _refusal(error: Exception, trail: Trail) -> Answer:
    return Answer(
        fault_of(error).status,
        answer_body(error, trail.failure),
        ERROR_TYPE,
        tuple(headers_of(error)),
    )
