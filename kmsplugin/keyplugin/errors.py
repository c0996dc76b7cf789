"""What a KMS v2 caller is told: the only table from domain errors to gRPC codes."""

from __future__ import annotations

from collections.abc import Mapping

from grpc import StatusCode

from keycore.errors import (
    AccessError,
    CiphertextRejectedError,
    ConflictError,
    IntegrityError,
    InvalidRequestError,
    KeyplaneError,
    NotFoundError,
    SetupError,
    UnavailableError,
)

GRPC_CODES: Mapping[type[KeyplaneError], StatusCode] = {
    SetupError: StatusCode.FAILED_PRECONDITION,
    InvalidRequestError: StatusCode.INVALID_ARGUMENT,
    AccessError: StatusCode.PERMISSION_DENIED,
    NotFoundError: StatusCode.NOT_FOUND,
    ConflictError: StatusCode.FAILED_PRECONDITION,
    # The same code as for a malformed one, which is an invalid request.
    CiphertextRejectedError: StatusCode.INVALID_ARGUMENT,
    IntegrityError: StatusCode.DATA_LOSS,
    UnavailableError: StatusCode.UNAVAILABLE,
}
"""Each branch of the tree of errors; the classes below a branch answer like it."""

UNEXPECTED = "keyplane met a fault of its own; its log has the details"
"""Fixed, because grpcio would send the text of an unexpected exception to the caller."""

NOT_A_REQUEST = "the message is not a request of this method"
"""The answer with INVALID_ARGUMENT to bytes that are no message of the protocol."""

OVERLOADED = "too many calls wait for the token; try again later"
"""The answer with RESOURCE_EXHAUSTED while the queue before the token is full."""


def grpc_code_of(error: KeyplaneError) -> StatusCode:
    """Return the gRPC code of the nearest class in the table."""
    mapped = (GRPC_CODES[cls] for cls in type(error).__mro__ if cls in GRPC_CODES)
    return next(mapped, StatusCode.INTERNAL)


def describe(error: KeyplaneError) -> str:
    """Return the text for the caller, which ends in kube-apiserver's log."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
