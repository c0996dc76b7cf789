"""An HTTP request, taken apart: headers and body, each checked once.

Built on plain ASGI, because a framework's request, router and response cost more
than a whole wrap in the HSM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from keycore.domain.ids import InstanceId, new_uuid, parse_instance_id
from keycore.errors import InvalidRequestError
from keycore.service.creation import is_idempotency_key
from keyrest.request_errors import (
    BodyTooLargeError,
    InstanceHeaderError,
    InvalidHeaderError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)

BODY_BYTES_MAX = 1024 * 1024
"""The largest legal body has about 392 KB: 126 AADs of 255 characters, each written as
two escapes of six bytes (``rest-contract`` 1.1)."""

_CORRELATION_HEADERS = (b"correlation-id", b"x-correlation-id", b"x-request-id")

_CORRELATION_ID = re.compile(rb"[\x21-\x7e]{1,128}")
"""Visible ASCII only, so that it can stand in a log and in a header as it is."""

_RETURN_PREFERENCE = re.compile(
    rb"(?:^|,)\s*return\s*=\s*\"?(representation|minimal)\"?\s*(?:;[^,]*)?(?:,|$)", re.IGNORECASE
)


@dataclass(slots=True)
class Request:
    """The parts of a request that decide about it.

    Attributes:
        headers: by lower-case name; values of a repeated header joined by a comma.
        correlation_id: the caller's own, or a fresh UUID where it sent none that
            can be shown.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    query_string: bytes
    correlation_id: str

    @classmethod
    def of(cls, scope: Scope) -> Request:
        """Return the request of an ASGI ``http`` scope."""
        headers = _headers_of(scope["headers"])
        raw_path: bytes = scope.get("raw_path") or b""
        # A slash in disguise would lead past whoever filters paths in front of us.
        is_disguised = b"%" in raw_path and b"%2f" in raw_path.lower()
        return cls(
            scope["method"],
            "" if is_disguised else scope["path"],
            headers,
            scope["query_string"],
            _correlation_id(headers),
        )

    def authorization(self) -> str | None:
        """Return the header with the credential, ``None`` when there is none."""
        given = self.headers.get(b"authorization")
        return None if given is None else given.decode("latin-1")

    def instance_id(self) -> InstanceId:
        """Return the instance that the caller names.

        Raises:
            InstanceHeaderError: neither header is there, one is no UUID, or they differ.
        """
        return _instance_id(
            self.headers.get(b"icp-instance"), self.headers.get(b"bluemix-instance")
        )

    def prefers_representation(self) -> bool:
        """Tell whether ``Prefer`` asks for the whole resource (RFC 7240, 4.2)."""
        prefer = self.headers.get(b"prefer")
        found = _RETURN_PREFERENCE.search(prefer) if prefer else None
        return found is not None and found[1].lower() == b"representation"

    def idempotency_key(self) -> str | None:
        """Return what makes a create repeatable, 1..255 visible ASCII characters, or ``None``.

        Raises:
            InvalidHeaderError: it has another form.
        """
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        text = given.decode("latin-1")
        if not is_idempotency_key(text):
            raise InvalidHeaderError("Idempotency-Key", "1 to 255 visible ASCII characters")
        return text

    def accepts(self) -> frozenset[str]:
        """Return the media types of ``Accept``, lower-case; empty when there are none.

        Raises:
            NotAcceptableError: no JSON is among them.
        """
        return _accepted(self.headers.get(b"accept", b""))

    def ensure_json(self, body: bytes) -> None:
        """Check that a body which is there is not declared to be something else than plain JSON.

        Raises:
            UnsupportedMediaTypeError: it is.
        """
        encoding = self.headers.get(b"content-encoding", b"identity").strip().lower()
        if body and encoding not in (b"", b"identity"):
            raise UnsupportedMediaTypeError(
                "the body is compressed", hint="send it without content-encoding"
            )
        if body:
            _ensure_json_type(self.headers.get(b"content-type", b""))

    async def body(self, receive: Receive) -> bytes:
        """Return the body, of which no more is read than could be legal.

        Raises:
            BodyTooLargeError: it is larger than :data:`BODY_BYTES_MAX`.
            ClientDisconnect: the caller hung up.
        """
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > BODY_BYTES_MAX:
            raise BodyTooLargeError(BODY_BYTES_MAX)
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise BodyTooLargeError(BODY_BYTES_MAX)
            chunks.append(chunk)
            more = message.get("more_body", False)
        return b"".join(chunks)


def _headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by name; repeated ones joined, so that none hides another (RFC 9110, 5.3)."""
    pairs = list(raw)
    headers = dict(pairs)
    if len(headers) != len(pairs):
        headers = {}
        for name, value in pairs:
            headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value
    return headers


def _correlation_id(headers: Mapping[bytes, bytes]) -> str:
    for name in _CORRELATION_HEADERS:
        given = headers.get(name)
        if given:
            return given.decode() if _CORRELATION_ID.fullmatch(given) else new_uuid()
    return new_uuid()


@lru_cache(maxsize=1024)
def _instance_id(icp: bytes | None, bluemix: bytes | None) -> InstanceId:
    try:
        named = {parse_instance_id(value.decode()) for value in (icp, bluemix) if value is not None}
    except (InvalidRequestError, UnicodeDecodeError):
        raise InstanceHeaderError from None
    if len(named) != 1:
        raise InstanceHeaderError
    return named.pop()


@lru_cache(maxsize=256)
def _accepted(accept: bytes) -> frozenset[str]:
    types = set()
    for item in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        if media_type and not any(re.fullmatch(r"q=0(\.0*)?", p) for p in parameters):
            types.add(media_type)
    if accept.strip() and not any(_takes_json(media_type) for media_type in types):
        raise NotAcceptableError
    return frozenset(types)


def _takes_json(media_type: str) -> bool:
    return media_type in ("*/*", "application/*") or _is_json(media_type)


@lru_cache(maxsize=256)
def _ensure_json_type(content_type: bytes) -> None:
    media_type = content_type.decode("latin-1").split(";")[0].strip().lower()
    if not media_type or _is_json(media_type):
        return
    hint = "send 'content-type: application/json'"
    if media_type == "application/x-www-form-urlencoded":
        hint += "; curl -d declares a form unless -H says otherwise"
    raise UnsupportedMediaTypeError("the body is not declared as JSON", hint=hint)


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
