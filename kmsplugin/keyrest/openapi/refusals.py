"""Answers that refuse something: every status with its codes, headers and an example.

The codes of a status come from the table of errors and from what a connection refuses
by itself; the examples are made by the functions that make the real answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson

from keycore.errors import (
    AccessDeniedError,
    CiphertextRejectedError,
    InvalidRequestError,
    KeyDeletedError,
    KeyNotFoundError,
    KeyStateError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
)
from keyrest.errors import ERROR_TYPE, FAULTS, MORE_INFO, answer_body, fault_of
from keyrest.openapi.headers import answer_headers, header
from keyrest.openapi.nodes import Node, content, object_of, reference
from keyrest.openapi.parameters import KEY_EXAMPLE
from keyrest.rejections import REJECTIONS
from keyrest.request_errors import (
    BodyTooLargeError,
    MethodNotAllowedError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)
from keyrest.requests import BODY_BYTES_MAX

_MEANINGS: Mapping[str, str] = {
    "BAD_BODY_ERR": "The body is no JSON, has an unknown field, or is not of the form asked for.",
    "BAD_REQUEST_ERR": "The connection carried no well-formed HTTP/1.1 request.",
    "BODY_QUERY_PARAM_MISMATCH_ERR": "The body has a field that belongs to another action.",
    "BODY_TOO_LARGE_ERR": f"The body has more than {BODY_BYTES_MAX} bytes.",
    "COLLECTION_TOTAL_MISMATCH_ERR": "`collectionTotal` is not the number of resources.",
    "CONFLICT_ERR": "The state of the key forbids it.",
    "FORBIDDEN_ERR": "The caller's roles do not allow it, or there is no such instance.",
    "HEADERS_TOO_LARGE_ERR": "The headers are too many or too long.",
    "HTTP_VERSION_ERR": "The request is not HTTP/1.1.",
    "IDEMPOTENCY_KEY_REUSED_ERR": "The idempotency key came with another request before.",
    "INCOMPLETE_METADATA_ERR": "The stored record of the key is damaged and was not used.",
    "INSTALLATION_ERR": "An administrator must mend the installation.",
    "INTERNAL_ERR": "A fault of the service; its log has the details.",
    "INVALID_FIELD_ERR": "A field has a value that can never be accepted; `target` names it.",
    "INVALID_HEADER_ERR": "A header has a value that can never be accepted.",
    "INVALID_INSTANCE_HEADER_ERR": "No header names the instance, or two name different ones.",
    "INVALID_QUERY_PARAM_ERR": "A query parameter has a value that can never be accepted; or"
    " `payload` was given for a key that was not imported.",
    "KEY_ACTION_INVALID_STATE_ERR": "The state of the key does not allow the action.",
    "KEY_ALIAS_NOT_UNIQUE_ERR": "Another key of the instance has the alias.",
    "KEY_DELETED_ERR": "The key has been deleted; only its metadata is left.",
    "KEY_EXHAUSTED_ERR": "The key version has made all the ciphertexts it may; rotate the key.",
    "KEY_NOT_FOUND_ERR": "The instance has no such key.",
    "KEY_PAYLOAD_REQ_ERR": "An imported key is rotated with new key material only.",
    "KEY_ROOT_REQ_ERR": "The action needs a root key, and this is a standard key.",
    "KEY_ROTATION_NOT_PERMITTED": "An earlier rotation has not reached every node yet.",
    "METHOD_NOT_ALLOWED_ERR": "The path is not served with this method; `Allow` lists those it is.",
    "NOT_ACCEPTABLE_ERR": "`Accept` names no JSON, and answers are nothing else.",
    "NOT_FOUND_ERR": "There is nothing at the path.",
    "NOT_IMPLEMENTED_ERR": "The only transfer coding is `chunked`.",
    "NO_BODY_ERR": "The operation needs a body.",
    "PROTECTED_RESOURCE_ERR": "A KMS provider of the cluster needs the key.",
    "REQUEST_TIMEOUT_ERR": "The request did not arrive in time.",
    "TOO_MANY_REQUESTS_ERR": "The caller asks more often than it may.",
    "UNAUTHORIZED_ERR": "There is no bearer token, or none that proves who the caller is.",
    "UNAVAILABLE_ERR": "HSM, store or issuer do not answer; the same request may succeed later.",
    "UNCONFIRMED_ERR": "The store did not confirm the change, which may or may not have been"
    " made; look before you repeat it.",
    "UNPROCESSABLE_CIPHERTEXT_ERR": "The ciphertext does not open under this key and AAD; which"
    " of them is wrong is never told.",
    "UNSUPPORTED_MEDIA_TYPE_ERR": "The body is declared to be something else than JSON.",
    "URI_TOO_LONG_ERR": "The request line is too long.",
}
"""Every code, in a sentence for whoever meets it."""

_ACTION_FAILED = "Action could not be performed on key"

_EXAMPLES: Sequence[tuple[Exception, str]] = (
    (
        InvalidRequestError("the plaintext must have 1 to 4096 bytes", field="plaintext"),
        _ACTION_FAILED,
    ),
    (UnauthenticatedError("missing"), ""),
    (AccessDeniedError("the caller may not do this"), ""),
    (KeyNotFoundError(KEY_EXAMPLE), "Key could not be retrieved"),
    (MethodNotAllowedError(("GET", "HEAD", "POST")), "Request could not be processed"),
    (NotAcceptableError(), "Keys could not be retrieved"),
    (KeyStateError(f"key {KEY_EXAMPLE} is suspended and cannot wrap"), _ACTION_FAILED),
    (KeyDeletedError(KEY_EXAMPLE), "Key could not be deleted"),
    (BodyTooLargeError(BODY_BYTES_MAX), _ACTION_FAILED),
    (UnsupportedMediaTypeError("the body is not declared as JSON"), _ACTION_FAILED),
    (CiphertextRejectedError(), _ACTION_FAILED),
    (TooManyRequestsError(1), ""),
    (RuntimeError(), "Key could not be created"),
    (UnavailableError("the store does not answer"), ""),
)
"""Errors, and what did not come about because of them."""

_HEADERS: Mapping[int, str] = {
    401: "WWW-Authenticate",
    405: "Allow",
    429: "Retry-After",
}
"""By status, the header that tells the client what to do."""


def error_schema() -> Node:
    """Return the schema of every refusal: one form, with stable codes."""
    text: Node = {"type": "string"}
    target = object_of({"type": {"enum": ["field", "header", "query_param"]}, "name": text})
    reason = object_of(
        {
            "code": {**text, "description": "Stable; compare this."},
            "message": text,
            "status": {"type": "integer"},
            "moreInfo": {"const": MORE_INFO},
            "target": {**target, "description": "Where the fault lies."},
        },
        without=["target"],
    )
    resource = object_of(
        {"errorMsg": {**text, "description": "What failed, for people."}, "reasons": _one(reason)}
    )
    metadata = object_of({"collectionType": {"const": ERROR_TYPE}, "collectionTotal": {"const": 1}})
    return object_of({"metadata": metadata, "resources": _one(resource)})


def refusals() -> Node:
    """Return the response of every status that refuses, by the name :func:`name_of` gives it."""
    return {name_of(status): _refusal(status, codes) for status, codes in _codes().items()}


def name_of(status: int) -> str:
    """Return the component that describes a status."""
    return f"Error{status}"


def without_body(status: int) -> Node:
    """Return the response of a status to HEAD, which is never told a reason."""
    return {"description": _phrase(status), "headers": _headers(status)}


def _codes() -> dict[int, list[str]]:
    """Return the codes of each status, both in order."""
    faults = {(fault.status, fault.code) for fault in (*FAULTS.values(), fault_of(Exception()))}
    rejections = {(rejection.status, rejection.code) for rejection in REJECTIONS}
    codes: dict[int, list[str]] = {}
    for status, code in sorted(faults | rejections):
        codes.setdefault(status, []).append(code)
    return codes


def _refusal(status: int, codes: Sequence[str]) -> Node:
    meanings = "\n".join(f"- `{code}`: {_MEANINGS[code]}" for code in codes)
    reason = {"properties": {"code": {"enum": codes}, "status": {"const": status}}}
    resource = {"properties": {"reasons": {"items": reason}}}
    schema = {
        "allOf": [
            reference("schemas", "Error"),
            {"properties": {"resources": {"items": resource}}},
        ]
    }
    return {
        "description": f"{_phrase(status)}\n\n{meanings}",
        "headers": _headers(status),
        "content": content([ERROR_TYPE], schema, _examples(status)),
    }


def _one(item: Node) -> Node:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": 1}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _examples(status: int) -> Node:
    bodies = [answer_body(error, f) for error, f in _EXAMPLES if fault_of(error).status == status]
    bodies = bodies or [rejection.body for rejection in REJECTIONS if rejection.status == status]
    values = [orjson.loads(body) for body in bodies]
    return {value["resources"][0]["reasons"][0]["code"]: {"value": value} for value in values}


def _headers(status: int) -> Node:
    """Return the headers; what a connection refuses by itself has none of the application's."""
    of_connection = status in {rejection.status for rejection in REJECTIONS}
    if of_connection and status not in {fault.status for fault in FAULTS.values()}:
        return {}
    extra = _HEADERS.get(status)
    return {**answer_headers(always=not of_connection), **(header(extra) if extra else {})}
