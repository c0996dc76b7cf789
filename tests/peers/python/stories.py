"""Runs the stories of one client, and tells the test how each of them ended.

It runs in a process of the client's own, without this project's packages. A story is
one rule that a user of the client relies on. For each, one JSON line goes to standard
output; a story that fails does not keep the others from being told.
"""

import base64
import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

FaultT = TypeVar("FaultT", bound=BaseException)

Story = Callable[[Any], None]

KEY_TYPE = "application/vnd.ibm.kms.key+json"

HURRIED_CALLS = 6
"""More than the throttled server, which takes one a second, lets through at once."""

PATIENT_CALLS = 3
"""As many as a client can wait for."""

EXPIRY_SECONDS_MAX = 20.0

UNICODE_AAD = ["tenant-7", "", "naïve café", "鍵", "🔑"]


def story(function: Story) -> Story:
    """Mark a function as a story; the story has its name."""
    function.is_story = True
    return function


def tell(begin: Callable[[dict[str, Any]], Any], *modules: ModuleType) -> None:
    """Run every story and report it; ends the process.

    Args:
        begin: makes what each story gets, from the description of the server that
            the test has written.
        modules: where the stories are.
    """
    world = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    failed = False
    for each in filter(_is_story, (value for found in modules for value in vars(found).values())):
        fault = ""
        try:
            each(begin(world))
        except Exception:  # noqa: BLE001 - whatever went wrong is told.
            fault = traceback.format_exc()
            failed = True
        sys.stdout.write(json.dumps({"story": each.__name__, "fault": fault}) + "\n")
        sys.stdout.flush()
    sys.exit(failed)


def _is_story(value: object) -> bool:
    return getattr(value, "is_story", False) is True


def raised(kind: type[FaultT], call: Callable[[], object]) -> FaultT:
    """Return the exception that a call must end with."""
    try:
        call()
    except kind as fault:
        return fault
    raise AssertionError(f"this should have ended with {kind.__name__}")


def base64_of(data: bytes) -> str:
    """Return padded base64."""
    return base64.b64encode(data).decode("ascii")


def utc(text: str) -> datetime:
    """Read a date in the only form that it may have: UTC, without a fraction."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def soon(seconds: float) -> str:
    """Return a date a moment from now, with a fraction of a second."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask a condition until it holds, for 20 seconds at most."""
    deadline = time.monotonic() + EXPIRY_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.2)
