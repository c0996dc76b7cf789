"""What stands between the application and the server: nothing unexpected gets past it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog

from keyrest.rejections import FAULT

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_log = structlog.get_logger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application."""


async def answer(
    app: App, cycle: RequestResponseCycle, scope: Any, receive: Any, send: Any
) -> None:
    """Run the application; a fault of it ends as one fixed answer, and in the log.

    uvicorn would answer in plain text.

    Args:
        app: the application; what it raises is raised no further.
        cycle: uvicorn's state of this one request.
        scope: of ASGI, like the two that follow.
        receive: gives the body.
        send: takes the answer.
    """
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        # The server has given the request up, and has closed its connection.
        return
    except Exception:  # noqa: BLE001 - nobody else handles it.
        if cycle.disconnected:
            return
        _log.exception("a request failed unexpectedly", path=scope["path"])
    if cycle.response_started:
        # Half an answer cannot be mended; uvicorn ends the connection, and that shows it.
        return
    await send({"type": "http.response.start", "status": FAULT.status, "headers": FAULT.headers})
    await send({"type": "http.response.body", "body": FAULT.body})
