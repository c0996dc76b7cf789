"""Which connections this process still has: what a drained server waits for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/net/unix")
"""All unix sockets of the machine (``proc(5)``); the path is the last column."""

_STATE_COLUMN: Final = 5
_CONNECTED: Final = b"03"
_COLUMNS: Final = 8

_POLL_SECONDS: Final = 0.1


def open_connections(bound: Path) -> int:
    """Count the connections to a unix socket, those that wait to be accepted among them.

    grpcio tells nothing of its connections. The kernel calls each one after the path
    that the server had bound, whatever was renamed since.
    """
    wanted = os.fsencode(bound)
    lines = (line.split(maxsplit=_COLUMNS - 1) for line in _TABLE.read_bytes().splitlines())
    return sum(
        len(columns) == _COLUMNS
        and columns[_COLUMNS - 1] == wanted
        and columns[_STATE_COLUMN] == _CONNECTED
        for columns in lines
    )


def await_no_connections(bound: Path, *, within_seconds: float) -> int:
    """Wait until the last client has gone to another process; return how many are left."""
    latest = time.monotonic() + within_seconds
    while (left := open_connections(bound)) and time.monotonic() < latest:
        time.sleep(_POLL_SECONDS)
    return left
