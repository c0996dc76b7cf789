"""A TLS client that sends exactly the bytes it is given."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orjson

ANSWER_SECONDS_MAX = 20
HOST_LINE = b"Host: kms\r\n"


@dataclass(frozen=True)
class RawAnswer:
    """One answer as it came; the names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def is_last(self) -> bool:
        return self.headers.get("connection") == "close"


class RawClient:
    """One connection. Every read has a deadline."""

    def __init__(
        self, address: tuple[str, int], tls: ssl.SSLContext, *, seconds: float = ANSWER_SECONDS_MAX
    ) -> None:
        """Connect and shake hands.

        Raises:
            OSError: nobody answers, or the handshake failed.
        """
        plain = socket.create_connection(address, timeout=seconds)
        try:
            self._socket = tls.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self, *, head: bool = False) -> RawAnswer:
        """Read one answer; ``head`` when the request was a HEAD.

        Raises:
            EOFError: the connection ended before or in it.
        """
        line = self._line()
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        length = 0 if head else int(headers.get("content-length", "0"))
        body = self._file.read(length)
        if len(body) != length:
            raise EOFError("the body was cut off")
        return RawAnswer(status, headers, body)

    def ask(self, request: bytes) -> RawAnswer:
        self.send(request)
        return self.answer()

    def has_ended(self) -> bool:
        """Wait for the server's end of the connection; ``False`` when it sent something."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def _line(self) -> str:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the connection has ended")
        return line.decode("latin-1").rstrip("\r\n")


def get(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: kms", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    """Return a request with a body."""
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST") + body
