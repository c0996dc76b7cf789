"""What one caller may take from the server before anything is known about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of each connection, in bytes and seconds, and how the server ends.

    The defaults are what the server runs with; tests shorten the times.
    """

    connections_max: int = 1000
    """Connections of one process, those that still shake hands included."""

    request_line_bytes_max: int = 8 * 1024
    """Method, target and version. An honest target has some hundred bytes; RFC 9112,
    3 asks for 8,000."""

    header_bytes_max: int = 32 * 1024
    """The header section with its trailers. A bearer token with hundreds of groups
    takes about half of it."""

    headers_max: int = 100

    pipelined_max: int = 16
    """Requests that may wait while an earlier one of their connection is answered."""

    handshake_seconds: float = 10.0
    """From the accepted connection to the end of the TLS handshake."""

    head_seconds: float = 10.0
    """From the handshake, or from a request's first byte, to the end of its headers."""

    body_seconds: float = 30.0
    """From the end of the headers to the end of the body: 1 MiB at 35 kB/s."""

    idle_seconds: float = 60.0
    """Between an answer and the next request."""

    write_seconds: float = 30.0
    """How long a client may leave unread what does not fit into the buffers of the
    kernel, and how long it may take to agree to the end of the connection."""

    sweep_seconds: float = 0.25
    """How often overdue connections are looked for; no time above is kept more
    precisely than that."""

    quiet_seconds: float = 0.3
    """A stopping server in which nothing has moved for this long accepts no more."""

    newcomer_seconds: float = 2.0
    """How long a stopping server waits for the first request of a connection: whoever
    has just shaken hands is about to send it, and may be slow."""

    accept_seconds: float = 4.0
    """How long a stopping server accepts connections at most, while some still come."""

    grace_seconds: float = 10.0
    """How long a stopping server takes at most to answer what it has accepted."""
