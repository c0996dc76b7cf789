"""The kopf handlers: each calls the reconciler and writes down what it answers.

They are sync functions, which kopf runs in threads: the core and the reads from
Kubernetes block, and on the event loop they would stop all watching.
"""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import Any

import kopf

from keyoperator.errors import to_kopf, to_retry
from keyoperator.reconcile import Outcome, Reconciler
from keyoperator.resource import GROUP, PLURAL, VERSION

logger = logging.getLogger(__name__)

_GIVE_UP_SECONDS = 600
"""How long a change is retried by itself; after that the timer alone goes on trying."""


def register(reconciler: Reconciler, resync: timedelta) -> kopf.OperatorRegistry:
    """Return the handlers of Keys.

    Args:
        reconciler: does the work.
        resync: how often each Key is looked at although nothing happened.
    """
    registry = kopf.OperatorRegistry()
    keys, interval = (GROUP, VERSION, PLURAL), resync.total_seconds()

    def spread(**_: Any) -> float:
        # After a start all timers would otherwise run at the same moment for ever.
        return random.uniform(interval / 2, interval)  # noqa: S311 - no secret

    @kopf.on.create(*keys, id="reconcile", registry=registry, timeout=_GIVE_UP_SECONDS)
    @kopf.on.resume(*keys, id="reconcile", registry=registry, timeout=_GIVE_UP_SECONDS)
    @kopf.on.update(
        *keys, id="reconcile", registry=registry, timeout=_GIVE_UP_SECONDS, field="spec"
    )
    def reconcile(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
        outcome = reconciler.reconcile(body)
        _write(outcome, body, patch)
        if outcome.failure is not None:
            raise to_kopf(outcome.failure)

    @kopf.timer(*keys, id="look", registry=registry, interval=interval, initial_delay=spread)
    def look_again(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
        # A failure stands in the status, and the next look is the retry.
        _write(reconciler.look_again(body), body, patch)

    @kopf.on.delete(*keys, id="let-go", registry=registry)
    def let_go(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
        outcome = reconciler.delete(body)
        _write(outcome, body, patch)
        if outcome.failure is not None:
            raise to_retry(outcome.failure, resync)

    return registry


def _write(outcome: Outcome, body: kopf.Body, patch: kopf.Patch) -> None:
    patch.status.update(outcome.status)
    for event in outcome.events:
        logger.info(
            "Key %s/%s: %s: %s", body.meta.namespace, body.meta.name, event.reason, event.message
        )
        kopf.event(body, type=event.kind, reason=event.reason, message=event.message)
