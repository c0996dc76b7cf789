"""Ports and HTTP requests that never leave this machine.

Every address of the test bed comes from here, and every request goes through
`request`, so that a wrong kubeconfig or variable can never aim a test at
somebody's real cluster.
"""

import http.client
import ipaddress
import secrets
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from testbed.errors import ControlPlaneError, NotLoopbackError

HOST: Final = "127.0.0.1"
"""The only address that the test bed's servers listen on."""

# The range ends below the kernel's usual ephemeral ports (32768 and up): an
# outgoing connection of any process can then never take a port between the
# moment it is chosen here and the moment the server binds it.
_PORTS: Final = range(15_000, 32_000)
_ATTEMPTS_MAX: Final = 200

_given_out: set[int] = set()
_lock: Final = threading.Lock()


def free_port() -> int:
    """Choose a TCP port of the loopback address that nobody listens on.

    A port is given out at most once in the life of the process, so that two
    clusters side by side never get the same one.

    Returns:
        A port between 15000 and 31999.

    Raises:
        ControlPlaneError: No free port was found in 200 attempts.
    """
    for _ in range(_ATTEMPTS_MAX):
        port = secrets.choice(_PORTS)
        with _lock:
            if port not in _given_out and _can_be_bound(port):
                _given_out.add(port)
                return port
    raise ControlPlaneError(f"No free loopback port in {_ATTEMPTS_MAX} attempts.")


def _can_be_bound(port: int) -> bool:
    with socket.socket() as candidate:
        # The servers set this option too: a port whose old connections are
        # still in TIME_WAIT is as good as free to them.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
        return True


def require_loopback(url: str) -> str:
    """Let a URL pass only when its host is a literal loopback address.

    Names are refused as well, `localhost` included: what a name means is up to
    the resolver.

    Args:
        url: An absolute URL such as `https://127.0.0.1:6443`.

    Returns:
        The same URL.

    Raises:
        NotLoopbackError: The host is a name, missing, or another address.
    """
    host = urlsplit(url).hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise NotLoopbackError(
            f"{host or url!r} is not a loopback address; the test bed talks to no other."
        )
    return url


def request(
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    ca: Path | None = None,
    timeout_seconds: float = 10.0,
) -> tuple[int, bytes]:
    """Send one HTTP request to a server on this machine.

    It uses `http.client` because that reads neither proxy variables nor CA
    variables from the environment.

    Args:
        url: Where to, with path and query.
        body: Sent by POST when it is given; otherwise the request is a GET.
        headers: Further request headers.
        ca: PEM file with the only authority that is trusted for `https`.
        timeout_seconds: Bound for the connection and for each read.

    Returns:
        The status code and the whole body of the answer.

    Raises:
        NotLoopbackError: The URL leads away from this machine.
        OSError: No connection, or it broke (http.client's own protocol errors
            are turned into it).
    """
    parts = urlsplit(require_loopback(url))
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(
            parts.netloc, timeout=timeout_seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_seconds)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            "GET" if body is None else "POST", target, body=body, headers=dict(headers or {})
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as fault:
        raise ConnectionError(f"{url}: {fault!r}") from fault
    finally:
        connection.close()
