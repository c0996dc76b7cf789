"""What goes back to a caller: status, headers, and JSON of a type that the contract names."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Send

from keyrest.requests import Request

KEY_TYPE = "application/vnd.ibm.kms.key+json"
VERSION_TYPE = "application/vnd.ibm.kms.key.version+json"
ALIAS_TYPE = "application/vnd.ibm.kms.alias+json"
ACTION_TYPE = "application/vnd.ibm.kms.key_action+json"
# A vendor's type and not application/json, although clients accept that: one of them
# hands out the raw response only then, and its own samples need it.

COLLECTION_TYPE = "application/vnd.ibm.collection+json"
"""What the seed's samples ask for instead; the body is the same."""

_COLLECTIONS = frozenset({KEY_TYPE, VERSION_TYPE, ALIAS_TYPE})

PIECE_BYTES = 64 * 1024
"""How much of an answer is handed to the server at a time."""

Header = tuple[bytes, bytes]


@dataclass(slots=True)
class Answer:
    """An answer before it is sent.

    Attributes:
        body: JSON; empty for none.
        content_type: of the body; most answers are collections of keys.
        headers: further headers, their names in lower case.
    """

    status: int
    body: bytes = b""
    content_type: str = KEY_TYPE
    headers: tuple[Header, ...] = ()


async def send_answer(answer: Answer, request: Request, send: Send) -> None:
    """Send ``answer`` with the headers that every answer has."""
    # The seed's own sample, curl -X HEAD, waits for as many bytes as the length says.
    body = b"" if request.method == "HEAD" else answer.body
    headers = [
        (b"correlation-id", request.correlation_id.encode()),
        # Bodies hold key material, and no proxy may keep it.
        (b"cache-control", b"no-store"),
        *answer.headers,
    ]
    if body:
        headers.append((b"content-type", _type_for(answer, request).encode()))
    if answer.status != HTTPStatus.NO_CONTENT:
        # RFC 9110, 8.6 forbids it there.
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    # The server waits between pieces until the client has read enough; a large answer
    # in one piece would be copied and encrypted whole, whether anybody reads it or not.
    whole_pieces = range(0, len(body) - PIECE_BYTES, PIECE_BYTES)
    for start in whole_pieces:
        piece = body[start : start + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    rest = body[len(whole_pieces) * PIECE_BYTES :]
    await send({"type": "http.response.body", "body": rest})


def _type_for(answer: Answer, request: Request) -> str:
    if answer.content_type in _COLLECTIONS and COLLECTION_TYPE in request.accepts():
        return COLLECTION_TYPE
    return answer.content_type
