"""Waits until every node has loaded what a rotation or binding made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from keycli.output import remark
from keycore.errors import UnavailableError

if TYPE_CHECKING:
    from keycore.service.providers import ProviderOverview

POLL_SECONDS = 0.5
"""As often as the provider processes look themselves."""


def wait_until_settled(
    overviews: Callable[[], Sequence[ProviderOverview]], seconds: float | None
) -> UnavailableError | None:
    """Poll until no provider has a pending activation.

    Args:
        overviews: reads the providers concerned.
        seconds: how long to wait at most; ``None`` does not wait.

    Returns:
        ``None`` when nothing is pending, or when waiting was not wanted; otherwise
        the error to raise once the command has written its answer.
    """
    if seconds is None:
        return None
    import tenacity  # noqa: PLC0415

    pending = _pending(overviews())
    if pending:
        remark(f"waiting up to {seconds:g} s for {_names(pending)}")
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(bool),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(POLL_SECONDS),
    )
    try:
        retrying(lambda: _pending(overviews()))
    except tenacity.RetryError as error:
        return _too_late(seconds, error.last_attempt.result())
    return None


def _too_late(seconds: float, pending: Sequence[ProviderOverview]) -> UnavailableError:
    return UnavailableError(
        f"after {seconds:g} s {_names(pending)} had not loaded the new key version",
        hint="start the provider there, or remove a node that will not come back: "
        "keyplane nodes remove NODE",
    )


def _pending(overviews: Sequence[ProviderOverview]) -> list[ProviderOverview]:
    return [seen for seen in overviews if seen.provider.pending is not None]


def _names(pending: Sequence[ProviderOverview]) -> str:
    names = sorted({name for seen in pending for name in seen.waiting_for})
    return f"node {', '.join(names)}" if names else "the providers"
