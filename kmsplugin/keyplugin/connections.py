"""Which connections this process still has: what a drained server waits for."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_DESCRIPTORS: Final = Path("/proc/self/fd")

_POLL_SECONDS: Final = 0.1

_QUIET_LOOKS: Final = 3


def open_connections(bound: Path) -> int:
    """Count the connections that this process has accepted at a unix socket.

    grpcio tells nothing of its connections. The kernel calls each one after the path
    that the server had bound, whatever was renamed since. The table ``/proc/net/unix``
    would be shorter to read, but it shows a connection in its client's network
    namespace, which is not that of a provider in a pod of its own.
    """
    return sum(_is_connection(int(entry.name), bound) for entry in os.scandir(_DESCRIPTORS))


def _is_connection(descriptor: int, bound: Path) -> bool:
    # Other threads close descriptors meanwhile, and most of them are no sockets.
    with suppress(OSError):
        copy = os.dup(descriptor)
        try:
            one = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            return False
        with one:
            return (
                one.family == socket.AF_UNIX
                and one.getsockname() == os.fspath(bound)
                and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            )
    return False


def await_no_connections(bound: Path, *, within_seconds: float) -> int:
    """Wait until the last client has gone to another process; return how many are left."""
    latest = time.monotonic() + within_seconds
    # One that the kernel has accepted and grpcio not yet is not seen, so once is not enough.
    quiet_looks = 0
    while quiet_looks < _QUIET_LOOKS:
        left = open_connections(bound)
        quiet_looks = 0 if left else quiet_looks + 1
        if left and time.monotonic() >= latest:
            return left
        time.sleep(_POLL_SECONDS)
    return 0
