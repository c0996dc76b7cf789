"""The answers to what never becomes a request.

They are given before anybody is known and before the application hears of it, in the
contract's one form of error, and each of them ends its connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyrest.errors import ERROR_TYPE, UNEXPECTED, error_body


@dataclass(frozen=True, slots=True)
class Rejection:
    """One such answer.

    Attributes:
        code: stable word of ``reasons[].code``.
        message: text of ``reasons[].message``.
    """

    status: int
    code: str
    message: str

    @property
    def body(self) -> bytes:
        """The body in the contract's form."""
        return error_body(self.status, self.code, self.message)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that describe the body, and the end of the connection."""
        return [
            (b"content-type", ERROR_TYPE.encode()),
            (b"content-length", b"%d" % len(self.body)),
            (b"connection", b"close"),
        ]


MALFORMED = Rejection(400, "BAD_REQUEST_ERR", "this is no well-formed HTTP/1.1 request")
HOSTLESS = Rejection(400, "BAD_REQUEST_ERR", "a request has exactly one Host header")
UPGRADE = Rejection(400, "BAD_REQUEST_ERR", "this server switches to no other protocol")
LATE = Rejection(408, "REQUEST_TIMEOUT_ERR", "the request did not arrive in time")
LONG_LINE = Rejection(414, "URI_TOO_LONG_ERR", "the request line is too long")
LARGE_HEAD = Rejection(431, "HEADERS_TOO_LARGE_ERR", "the headers are too many or too long")
FAULT = Rejection(500, "INTERNAL_ERR", UNEXPECTED)
CODING = Rejection(501, "NOT_IMPLEMENTED_ERR", "the only transfer coding here is chunked")
VERSION = Rejection(505, "HTTP_VERSION_ERR", "this server speaks HTTP/1.1")

REJECTIONS = (
    *(MALFORMED, HOSTLESS, UPGRADE, LATE, LONG_LINE, LARGE_HEAD),
    *(FAULT, CODING, VERSION),
)
"""All of them, by status."""


class RejectedError(Exception):
    """Stops the parser of a request.

    Attributes:
        rejection: the answer.
    """

    def __init__(self, rejection: Rejection) -> None:
        """Keep ``rejection``."""
        super().__init__(rejection.message)
        self.rejection = rejection
