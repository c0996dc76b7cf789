"""A process seen from outside: metrics and health on an address of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import structlog

from keywatch.health import Health
from keywatch.listener import Answer, listening
from keywatch.metrics import CONTENT_TYPE, Metrics

_log = structlog.get_logger(__name__)


@contextmanager
def seen_from_outside(
    address: str, metrics: Metrics, health: Health, *, worker: int = 0
) -> Iterator[str]:
    """Answer ``/metrics``, ``/livez`` and ``/readyz`` until the block ends.

    An address that cannot be had is logged, and the process serves without it.

    Args:
        address: IP address and port; empty for nothing.
        metrics: what to show.
        health: what to answer.
        worker: this process's number among several on one address, from 0; each has the
            port that is so much higher.

    Yields:
        Where it listens; empty when it does not.
    """
    if not address:
        yield ""
        return
    pages = {
        "/metrics": lambda _query: Answer(HTTPStatus.OK, metrics.render(), CONTENT_TYPE),
        "/livez": health.live,
        "/readyz": health.ready,
    }
    with listening(address_of_worker(address, worker), pages) as where:
        if where:
            _log.info("serving metrics and health", address=where)
        yield where


def address_of_worker(address: str, worker: int) -> str:
    """Return the address of one of several workers; port 0 takes a free one for each."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + worker if int(port) else 0}"
