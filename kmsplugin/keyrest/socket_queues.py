"""What the kernel holds for a connection that the event loop knows nothing of (``tcp(7)``)."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios


def has_unread(transport: asyncio.Transport) -> bool:
    """Tell whether something has arrived that was not read yet.

    Closing the connection now would throw away a request that the client has sent.
    """
    return _bytes_in(transport, termios.FIONREAD) > 0


def is_delivered(transport: asyncio.Transport) -> bool:
    """Tell whether the client's kernel has acknowledged everything that was written."""
    return not transport.get_write_buffer_size() and not _bytes_in(transport, termios.TIOCOUTQ)


def _bytes_in(transport: asyncio.Transport, queue: int) -> int:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        # The connection has been lost, and its queues with it.
        return 0
    return int.from_bytes(fcntl.ioctl(sock.fileno(), queue, bytes(4)), sys.byteorder)
