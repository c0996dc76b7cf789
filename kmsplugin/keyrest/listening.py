"""The listening sockets of the REST face: one for each worker, all on one port.

With ``SO_REUSEPORT`` the kernel deals connections out evenly, where one socket for all
would give nearly everything to the worker that wakes up first. The option also lets a
second keyplane that was started by mistake join in and take a part of the callers. So
the first socket claims the port without it, which the kernel grants to one process
only, and opens it to the others afterwards.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from keycore.errors import SettingsError, SocketInUseError
from keycore.settings import RestSettings

BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel lowers it to ``somaxconn``."""


def open_listeners(rest: RestSettings, count: int = 1) -> list[socket.socket]:
    """Bind and listen; connections wait from now on until somebody accepts them.

    Whoever holds a socket open keeps its connections waiting, so that a worker can
    die and its successor, or another worker, takes over those who wait for it.

    Args:
        rest: address and port; port 0 takes a free one.
        count: how many sockets, one for each worker.

    Raises:
        SocketInUseError: another process listens there.
        SettingsError: there is no issuer, so nobody could ever be let in; the address is
            none, or none of this machine; or the port is reserved for root.
    """
    if not rest.issuers:
        raise SettingsError(
            "the REST face has no issuer of bearer tokens, so nobody could use it",
            hint="add a section [[rest.issuers]] with name, url and audience",
        )
    address = _address(rest)
    opened: list[socket.socket] = []
    try:
        first = _listener(address, rest.port, opened)
        port = first.getsockname()[1]
        if count > 1:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count - 1):
            _listener(address, port, opened, shared=True)
    except OSError as error:
        for listener in opened:
            listener.close()
        raise _refusal(rest, error) from None
    return opened


def url_of(listener: socket.socket) -> str:
    """Return where ``listener`` is reached, with the port that it really has."""
    host, port = listener.getsockname()[:2]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _listener(
    address: _Address, port: int, opened: list[socket.socket], *, shared: bool = False
) -> socket.socket:
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM)
    opened.append(listener)
    # Without it a restart would have to wait until old connections are forgotten.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        # "::" means every address, whatever the machine's default is.
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((str(address), port))
    listener.listen(BACKLOG)
    return listener


def _address(rest: RestSettings) -> _Address:
    try:
        return ipaddress.ip_address(rest.address)
    except ValueError:
        raise SettingsError(
            f"rest.address is {rest.address!r} and must be an IP address",
            hint="set rest.address to 0.0.0.0 or :: for all addresses of the machine",
        ) from None


def _refusal(rest: RestSettings, error: OSError) -> SettingsError | SocketInUseError:
    where = f"port {rest.port} of {rest.address}"
    match error.errno:
        case errno.EADDRINUSE:
            return SocketInUseError(
                f"another process listens on {where}",
                hint="stop it first, or set another rest.port",
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return SettingsError(
                f"this machine has no address {rest.address}",
                hint="set rest.address to one of its own, or to 0.0.0.0 for all",
            )
        case errno.EACCES:
            return SettingsError(
                f"uid {os.geteuid()} may not listen on {where}",
                hint="set a rest.port above 1023",
            )
        case _:
            return SettingsError(f"{where} cannot be listened on: {error.strerror}")
