"""Logging to standard error, for our own loggers and those of every library alike.

No log may ever show a secret. Tracebacks are therefore plain, without the values
of local variables, and libraries that log whole requests, answers or SQL
statements are kept at a level at which they do not.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

from keycore.settings import LogSettings

_TALKATIVE = {
    # At debug level it logs the bodies of answers, Secrets included.
    "kubernetes": logging.INFO,
    # At info level it logs SQL statements.
    "sqlalchemy": logging.WARNING,
    "alembic": logging.WARNING,
    # One line for each request, with its path.
    "urllib3": logging.INFO,
    "aiohttp.access": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn": logging.WARNING,
    "asyncio": logging.INFO,
}
"""Loggers that get no more talkative than this, whatever the level of the rest."""


def configure_logs(settings: LogSettings, *, face: str = "", quiet: bool = False) -> None:
    """Send every log record of this process to standard error in one form.

    Args:
        settings: level and form.
        face: what this process serves, added to every record; empty for nothing.
        quiet: lets only warnings and errors through, for commands that end at once.
    """
    level = logging.WARNING if quiet else getattr(logging, settings.level.upper())
    shared = _shared_processors(face)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, least in _TALKATIVE.items():
        logging.getLogger(name).setLevel(max(level, least))


def _shared_processors(face: str) -> list[Processor]:
    def add_face(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**event, "face": face} if face else event

    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ", utc=True, key="time"),
        add_face,
        _add_resource,
        structlog.processors.StackInfoRenderer(),
    ]


def _add_resource(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the Kubernetes resource that kopf attaches to its records."""
    reference = getattr(event.get("_record"), "k8s_ref", None) or {}
    parts = (reference.get("namespace"), reference.get("name"))
    return {**event, "resource": "/".join(filter(None, parts))} if any(parts) else event


def _renderers(settings: LogSettings) -> list[Processor]:
    if settings.format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            timestamp_key="time",
            # NB: the default prints local variables, and some of them are PINs and keys.
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]
