"""Waiting for a condition with a deadline; nothing here sleeps a fixed time."""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from tenacity import RetryError, Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from testbed.errors import DeadlineExceededError

_POLL_SECONDS: Final = 0.1


class Watched(Protocol):
    """Something whose end makes waiting useless, such as a child process."""

    def require_running(self) -> None:
        """Raise when it no longer runs."""

    def describe_log(self) -> str:
        """Quote what it said last, for an error message."""


def wait_until(
    condition: Callable[[], bool],
    *,
    what: str,
    within_seconds: float,
    watch: Iterable[Watched] = (),
) -> None:
    """Wait until a condition holds, while the processes it depends on live.

    Args:
        condition: Asked every 0.1 s; it must answer soon and may be asked often.
        what: The condition in words, for the error: "etcd is healthy".
        within_seconds: The deadline, counted from now.
        watch: Processes whose death makes further waiting useless.

    Raises:
        ProcessDiedError: A watched process ended.
        DeadlineExceededError: The condition still does not hold.
    """
    watched = tuple(watch)

    def holds() -> bool:
        for child in watched:
            child.require_running()
        return condition()

    attempts = Retrying(
        stop=stop_after_delay(within_seconds),
        wait=wait_fixed(_POLL_SECONDS),
        retry=retry_if_not_result(bool),
    )
    try:
        attempts(holds)
    except RetryError as fault:
        logs = "".join(f"\n{child.describe_log()}" for child in watched)
        raise DeadlineExceededError(f"Not within {within_seconds:g} s: {what}.{logs}") from fault
