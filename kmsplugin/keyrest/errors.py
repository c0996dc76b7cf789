"""What a REST caller is told: the only table from domain errors to answers (``rest-contract`` 1.4).

An answer says the same to everybody who gets it: nothing separates a wrong AAD from
a wrong key, or a missing instance from a missing permission. The text of an
exception that is no domain error never leaves the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from keycore.errors import (
    AccessDeniedError,
    AccessError,
    AlreadyExistsError,
    AuditUnavailableError,
    CiphertextMalformedError,
    CiphertextRejectedError,
    ConflictError,
    IdempotencyKeyReusedError,
    InstanceNotFoundError,
    IntegrityError,
    InvalidRequestError,
    KeyDeletedError,
    KeyExhaustedError,
    KeyInUseError,
    KeyNotFoundError,
    KeyplaneError,
    KeyStateError,
    NotARootKeyError,
    NotFoundError,
    PayloadNotAllowedError,
    PayloadRequiredError,
    RotationPendingError,
    SetupError,
    StoreUnconfirmedError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
)
from keyrest.fields import requirement
from keyrest.request_errors import (
    BodyActionMismatchError,
    BodyTooLargeError,
    CollectionTotalError,
    InstanceHeaderError,
    InvalidBodyError,
    InvalidHeaderError,
    InvalidQueryError,
    MethodNotAllowedError,
    MissingBodyError,
    NotAcceptableError,
    UnknownPathError,
    UnsupportedMediaTypeError,
)

ERROR_TYPE = "application/vnd.ibm.kms.error+json"
"""Content type and ``collectionType`` of every error."""

MORE_INFO = "docs/rest.md#errors"
"""Where the codes are explained, in this distribution's own documentation."""

UNEXPECTED = "keyplane met a fault of its own; its log has the details"
"""The whole of what a caller learns about an exception that nobody expected."""

_SEE_REASONS = "Please see `reasons` for more details."


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table.

    Attributes:
        code: stable word of ``reasons[].code``; clients compare it.
        message: text of ``reasons[].message``; empty for what the faulty field must be,
            or else for the error's own words.
        headline: the whole of ``errorMsg``; empty composes it from what failed.
        explained: adds the error's own words to ``errorMsg``.
    """

    status: int
    code: str
    message: str = ""
    headline: str = ""
    explained: bool = False


_DENIED = Fault(
    403,
    "FORBIDDEN_ERR",
    "Your access token is not authorized to access this resource.",
    "Forbidden: Your access token is not authorized to access this resource.",
)

FAULTS: Mapping[type[KeyplaneError], Fault] = {
    SetupError: Fault(500, "INSTALLATION_ERR", "the installation must be mended by hand"),
    InvalidRequestError: Fault(400, "INVALID_FIELD_ERR", explained=True),
    CiphertextMalformedError: Fault(
        400,
        "INVALID_FIELD_ERR",
        "The field 'ciphertext' must be: the original base64 encoded ciphertext from the wrap"
        " operation",
    ),
    NotARootKeyError: Fault(
        400,
        "KEY_ROOT_REQ_ERR",
        "Requested action can only be completed with a root key",
    ),
    # It is a field of the body, but clients know it by this code and these words.
    PayloadNotAllowedError: Fault(
        400,
        "INVALID_QUERY_PARAM_ERR",
        "The query_param 'payload' must be: provided only if key is imported",
    ),
    UnknownPathError: Fault(404, "NOT_FOUND_ERR", headline="Not Found: there is no such path"),
    MethodNotAllowedError: Fault(405, "METHOD_NOT_ALLOWED_ERR", explained=True),
    NotAcceptableError: Fault(406, "NOT_ACCEPTABLE_ERR", explained=True),
    BodyTooLargeError: Fault(413, "BODY_TOO_LARGE_ERR", explained=True),
    UnsupportedMediaTypeError: Fault(415, "UNSUPPORTED_MEDIA_TYPE_ERR", explained=True),
    InstanceHeaderError: Fault(
        400,
        "INVALID_INSTANCE_HEADER_ERR",
        headline="Bad Request: Request requires valid Instance Header containing a valid UUID",
    ),
    InvalidHeaderError: Fault(400, "INVALID_HEADER_ERR", explained=True),
    InvalidQueryError: Fault(400, "INVALID_QUERY_PARAM_ERR", explained=True),
    MissingBodyError: Fault(400, "NO_BODY_ERR", explained=True),
    InvalidBodyError: Fault(400, "BAD_BODY_ERR", explained=True),
    CollectionTotalError: Fault(400, "COLLECTION_TOTAL_MISMATCH_ERR", explained=True),
    BodyActionMismatchError: Fault(
        400,
        "BODY_QUERY_PARAM_MISMATCH_ERR",
        "Data in body does not match data required by query parameter",
        explained=True,
    ),
    AccessError: _DENIED,
    UnauthenticatedError: Fault(
        401,
        "UNAUTHORIZED_ERR",
        "The user does not have access to the specified resource",
        "Unauthorized: The user does not have access to the specified resource",
    ),
    AccessDeniedError: _DENIED,
    TooManyRequestsError: Fault(
        429,
        "TOO_MANY_REQUESTS_ERR",
        "Please wait a few minutes and try again.",
        "Too Many Requests: Please wait a few minutes and try again.",
    ),
    NotFoundError: Fault(404, "NOT_FOUND_ERR"),
    KeyNotFoundError: Fault(404, "KEY_NOT_FOUND_ERR", "key does not exist"),
    # Whoever may not know which instances exist cannot find out by asking.
    InstanceNotFoundError: _DENIED,
    ConflictError: Fault(409, "CONFLICT_ERR", explained=True),
    KeyStateError: Fault(
        409, "KEY_ACTION_INVALID_STATE_ERR", "Key is not in a valid state", explained=True
    ),
    KeyDeletedError: Fault(
        410,
        "KEY_DELETED_ERR",
        "Key has already been deleted. Please delete references to this key.",
    ),
    KeyInUseError: Fault(409, "PROTECTED_RESOURCE_ERR", explained=True),
    KeyExhaustedError: Fault(409, "KEY_EXHAUSTED_ERR", explained=True),
    RotationPendingError: Fault(409, "KEY_ROTATION_NOT_PERMITTED", explained=True),
    # Over REST nothing but an alias can exist already.
    AlreadyExistsError: Fault(409, "KEY_ALIAS_NOT_UNIQUE_ERR", explained=True),
    IdempotencyKeyReusedError: Fault(409, "IDEMPOTENCY_KEY_REUSED_ERR", explained=True),
    # The state of the key asks for it, but the original calls the request bad.
    PayloadRequiredError: Fault(
        400,
        "KEY_PAYLOAD_REQ_ERR",
        "This root key was created with user-supplied key material: Key material is required"
        " to perform a 'rotate' action",
    ),
    # One answer for a wrong key, a wrong AAD and a changed ciphertext.
    CiphertextRejectedError: Fault(
        422,
        "UNPROCESSABLE_CIPHERTEXT_ERR",
        "The provided ciphertext is invalid or corrupted",
    ),
    IntegrityError: Fault(
        500, "INCOMPLETE_METADATA_ERR", "the stored record is damaged and was not used"
    ),
    UnavailableError: Fault(
        503,
        "UNAVAILABLE_ERR",
        "token, store or issuer does not answer; nothing was done",
        headline="Unavailable Experiencing delays. Please try again in few minutes.",
    ),
    StoreUnconfirmedError: Fault(
        503,
        "UNCONFIRMED_ERR",
        "the store did not confirm the change, which may or may not have been made; "
        "look before you repeat it",
        headline="Unavailable The outcome is not known. Please look before you try again.",
    ),
    AuditUnavailableError: Fault(
        503,
        "UNAVAILABLE_ERR",
        "no audit line can be written; nothing was done",
        headline="Unavailable Experiencing delays. Please try again in few minutes.",
    ),
}
"""Each branch of the tree of errors; a class without a row answers like its nearest ancestor."""

_PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    422: "Unprocessable Entity",
}
"""Reason phrases that the standard library has renamed; answers are the same everywhere."""

_INTERNAL = Fault(500, "INTERNAL_ERR", UNEXPECTED)


def fault_of(error: BaseException) -> Fault:
    """Return the row of the nearest class in the table; a fault of ours has one too."""
    mapped = (FAULTS[cls] for cls in type(error).__mro__ if cls in FAULTS)
    return next(mapped, _INTERNAL)


def answer_body(error: BaseException, failure: str) -> bytes:
    """Return the body that tells a caller about ``error``.

    Args:
        error: a domain error, or anything unexpected, whose text stays here.
        failure: what did not come about, such as ``Key could not be created``.
    """
    fault = fault_of(error)
    words = _words_of(error)
    reason: dict[str, Any] = {
        "code": fault.code,
        "message": fault.message or _requirement(error) or words,
        "status": fault.status,
        "moreInfo": MORE_INFO,
    }
    if isinstance(error, InvalidRequestError) and error.field:
        reason["target"] = {"type": _target_type(error), "name": error.field}
    explanation = f": {words}" if fault.explained else ""
    composed = f"{_phrase(fault.status)}: {failure}{explanation}. {_SEE_REASONS}"
    return _collection(fault.headline or composed, reason)


def error_body(status: int, code: str, message: str) -> bytes:
    """Return the body of an error that no request handler met, such as a limit of the server.

    Args:
        status: HTTP status, 400 or above.
        code: stable word in capitals, ending in ``_ERR``.
        message: fixed text that anybody may see.
    """
    reason = {"code": code, "message": message, "status": status, "moreInfo": MORE_INFO}
    return _collection(f"{_phrase(status)}: {message}", reason)


def headers_of(error: BaseException) -> list[tuple[bytes, bytes]]:
    """Return the headers that belong to the answer, besides those that every answer has."""
    match error:
        case UnauthenticatedError():
            return [(b"www-authenticate", b"Bearer")]
        case MethodNotAllowedError():
            return [(b"allow", ", ".join(error.allowed).encode())]
        case TooManyRequestsError():
            return [(b"retry-after", b"%d" % error.retry_after_seconds)]
        case BodyTooLargeError():
            # The rest of the body is still under way and would be taken for a request.
            return [(b"connection", b"close")]
        case _:
            return []


def _requirement(error: BaseException) -> str:
    if not isinstance(error, InvalidRequestError) or _target_type(error) != "field":
        return ""
    return requirement(error.field)


def _words_of(error: BaseException) -> str:
    if not isinstance(error, KeyplaneError):
        return ""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _target_type(error: InvalidRequestError) -> str:
    match error:
        case InvalidQueryError():
            return "query_param"
        case InvalidHeaderError():
            return "header"
        case _:
            return "field"


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def _collection(message: str, reason: Mapping[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "metadata": {"collectionType": ERROR_TYPE, "collectionTotal": 1},
            "resources": [{"errorMsg": message, "reasons": [reason]}],
        }
    )
