"""The table from domain errors to answers is complete and says what the contract says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from keycore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CiphertextMalformedError,
    CiphertextRejectedError,
    IdempotencyKeyReusedError,
    InstanceNotFoundError,
    IntegrityError,
    InvalidRequestError,
    IssuerUnavailableError,
    KeyDeletedError,
    KeyExhaustedError,
    KeyInUseError,
    KeyNotFoundError,
    KeyplaneError,
    KeyStateError,
    NotARootKeyError,
    PayloadNotAllowedError,
    PayloadRequiredError,
    RotationPendingError,
    StoreUnavailableError,
    StoreUnconfirmedError,
    TokenSetupError,
    TokenUnavailableError,
    TooManyRequestsError,
    UnauthenticatedError,
)
from keyrest.errors import FAULTS, answer_body, error_body, fault_of, headers_of
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

FAILURE = "Key could not be created"

PAYLOAD_REQUIRED = (
    "This root key was created with user-supplied key material: Key material is required"
    " to perform a 'rotate' action"
)

CIPHERTEXT = (
    "The field 'ciphertext' must be: the original base64 encoded ciphertext from the wrap operation"
)


def subclasses(cls: type[KeyplaneError]) -> Iterator[type[KeyplaneError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def resource(error: BaseException) -> dict[str, Any]:
    """Return what a caller is told."""
    [only] = orjson.loads(answer_body(error, FAILURE))["resources"]
    found: dict[str, Any] = only
    return found


def reason(error: BaseException) -> dict[str, Any]:
    [only] = resource(error)["reasons"]
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize("cls", sorted(subclasses(KeyplaneError), key=lambda cls: cls.__name__))
def test_every_domain_error_is_in_the_table_or_below_a_class_that_is(
    cls: type[KeyplaneError],
) -> None:
    assert any(ancestor in FAULTS for ancestor in cls.__mro__)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=[cls.__name__ for cls in FAULTS])
def test_every_code_is_a_word_in_capitals(fault: Any) -> None:
    assert fault.code == fault.code.upper()
    assert fault.code.replace("_", "").isalpha()


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (InvalidBodyError("not JSON"), 400, "BAD_BODY_ERR", "not JSON"),
        (MissingBodyError(), 400, "NO_BODY_ERR", "Missing body in request"),
        (
            CollectionTotalError(),
            400,
            "COLLECTION_TOTAL_MISMATCH_ERR",
            "Collection total does not match number of resources",
        ),
        (
            BodyActionMismatchError("payload", "wrap"),
            400,
            "BODY_QUERY_PARAM_MISMATCH_ERR",
            "Data in body does not match data required by query parameter",
        ),
        (
            InvalidRequestError("too long", field="plaintext"),
            400,
            "INVALID_FIELD_ERR",
            "The field 'plaintext' must be: a base64 encoded key material of 1 to 4096 bytes",
        ),
        (CiphertextMalformedError(), 400, "INVALID_FIELD_ERR", CIPHERTEXT),
        (
            InvalidQueryError("limit", "an integer"),
            400,
            "INVALID_QUERY_PARAM_ERR",
            "The query_param 'limit' must be: an integer",
        ),
        (
            PayloadNotAllowedError(),
            400,
            "INVALID_QUERY_PARAM_ERR",
            "The query_param 'payload' must be: provided only if key is imported",
        ),
        (
            NotARootKeyError("k"),
            400,
            "KEY_ROOT_REQ_ERR",
            "Requested action can only be completed with a root key",
        ),
        (
            PayloadRequiredError("k"),
            400,
            "KEY_PAYLOAD_REQ_ERR",
            PAYLOAD_REQUIRED,
        ),
        (KeyNotFoundError("k"), 404, "KEY_NOT_FOUND_ERR", "key does not exist"),
        (KeyStateError("k"), 409, "KEY_ACTION_INVALID_STATE_ERR", "Key is not in a valid state"),
        (
            KeyDeletedError("k"),
            410,
            "KEY_DELETED_ERR",
            "Key has already been deleted. Please delete references to this key.",
        ),
        (
            CiphertextRejectedError(),
            422,
            "UNPROCESSABLE_CIPHERTEXT_ERR",
            "The provided ciphertext is invalid or corrupted",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KeyplaneError) else "",
)
def test_an_error_has_the_status_code_and_text_of_the_contract(
    error: KeyplaneError, status: int, code: str, message: str
) -> None:
    told = reason(error)

    assert (told["status"], told["code"], told["message"]) == (status, code, message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            InstanceHeaderError(),
            "Bad Request: Request requires valid Instance Header containing a valid UUID",
        ),
        (
            UnauthenticatedError("expired"),
            "Unauthorized: The user does not have access to the specified resource",
        ),
        (
            AccessDeniedError("Viewer in i"),
            "Forbidden: Your access token is not authorized to access this resource.",
        ),
        (
            TooManyRequestsError(3),
            "Too Many Requests: Please wait a few minutes and try again.",
        ),
        (
            TokenUnavailableError("gone"),
            "Unavailable Experiencing delays. Please try again in few minutes.",
        ),
        (
            IssuerUnavailableError("gone"),
            "Unavailable Experiencing delays. Please try again in few minutes.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KeyplaneError) else "",
)
def test_an_error_with_a_fixed_message_has_it_word_by_word(
    error: KeyplaneError, message: str
) -> None:
    assert resource(error)["errorMsg"] == message


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownPathError(), 404, "NOT_FOUND_ERR"),
        (MethodNotAllowedError(["GET"]), 405, "METHOD_NOT_ALLOWED_ERR"),
        (NotAcceptableError(), 406, "NOT_ACCEPTABLE_ERR"),
        (BodyTooLargeError(1), 413, "BODY_TOO_LARGE_ERR"),
        (UnsupportedMediaTypeError("form"), 415, "UNSUPPORTED_MEDIA_TYPE_ERR"),
        (InvalidHeaderError("Idempotency-Key", "short"), 400, "INVALID_HEADER_ERR"),
        (KeyInUseError("provider"), 409, "PROTECTED_RESOURCE_ERR"),
        (KeyExhaustedError("used up"), 409, "KEY_EXHAUSTED_ERR"),
        (RotationPendingError("node-b"), 409, "KEY_ROTATION_NOT_PERMITTED"),
        (AlreadyExistsError("alias"), 409, "KEY_ALIAS_NOT_UNIQUE_ERR"),
        (IdempotencyKeyReusedError("reused"), 409, "IDEMPOTENCY_KEY_REUSED_ERR"),
        (IntegrityError("key", "k"), 500, "INCOMPLETE_METADATA_ERR"),
        (TokenSetupError("missing"), 500, "INSTALLATION_ERR"),
        (StoreUnavailableError("gone"), 503, "UNAVAILABLE_ERR"),
        (StoreUnconfirmedError("lost"), 503, "UNCONFIRMED_ERR"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KeyplaneError) else "",
)
def test_an_error_without_a_text_in_the_contract_has_a_status_and_a_code_of_its_own(
    error: KeyplaneError, status: int, code: str
) -> None:
    assert (fault_of(error).status, fault_of(error).code) == (status, code)


def test_nobody_is_told_that_nothing_was_done_when_it_may_have_been() -> None:
    answer = resource(StoreUnconfirmedError("the answer was lost"))

    assert "nothing was done" not in str(answer)
    assert "may or may not have been made" in str(answer)


def test_a_composed_message_begins_with_the_reason_phrase_and_says_what_failed() -> None:
    assert resource(KeyDeletedError("k"))["errorMsg"] == (
        "Gone: Key could not be created. Please see `reasons` for more details."
    )


def test_a_composed_message_explains_a_state() -> None:
    error = KeyStateError("key k is suspended and cannot wrap", hint="resume the key first")

    assert resource(error)["errorMsg"] == (
        "Conflict: Key could not be created: key k is suspended and cannot wrap; resume the key"
        " first. Please see `reasons` for more details."
    )


def test_a_missing_instance_looks_exactly_like_a_missing_permission() -> None:
    denied = answer_body(AccessDeniedError("no role"), FAILURE)

    assert answer_body(InstanceNotFoundError("instance i does not exist"), FAILURE) == denied


@pytest.mark.parametrize(
    "error", [IntegrityError("key", "secret-id"), TokenSetupError("/secret/path is missing")]
)
def test_an_error_about_the_installation_tells_no_details(error: KeyplaneError) -> None:
    assert b"secret" not in answer_body(error, FAILURE)


def test_a_refused_credential_is_not_told_why() -> None:
    assert b"expired" not in answer_body(UnauthenticatedError("expired"), FAILURE)


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), KeyError("secret"), KeyplaneError("secret")]
)
def test_an_error_outside_of_the_table_is_internal_and_its_text_stays_here(
    error: Exception,
) -> None:
    body = answer_body(error, FAILURE)

    assert fault_of(error).status == 500
    assert reason(error)["code"] == "INTERNAL_ERR"
    assert b"secret" not in body


@pytest.mark.parametrize(
    ("error", "target"),
    [
        (InvalidRequestError("bad", field="aad"), {"type": "field", "name": "aad"}),
        (InvalidQueryError("limit", "less"), {"type": "query_param", "name": "limit"}),
        (InvalidHeaderError("Idempotency-Key", "short"), {"type": "header"}),
        (InvalidRequestError("bad"), None),
        (KeyNotFoundError("k"), None),
    ],
    ids=["field", "query", "header", "whole request", "no request fault"],
)
def test_a_faulty_part_of_the_request_is_named_as_target(
    error: KeyplaneError, target: dict[str, str] | None
) -> None:
    told = reason(error).get("target")

    if target is None:
        assert told is None
    else:
        assert told is not None
        assert target.items() <= told.items()


def test_the_field_without_a_requirement_is_told_in_the_errors_own_words() -> None:
    assert reason(InvalidRequestError("it is odd", field="oddity"))["message"] == "it is odd"


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (UnauthenticatedError("missing"), (b"www-authenticate", b"Bearer")),
        (MethodNotAllowedError(["GET", "POST"]), (b"allow", b"GET, POST")),
        (TooManyRequestsError(7), (b"retry-after", b"7")),
        (BodyTooLargeError(1), (b"connection", b"close")),
    ],
    ids=["401", "405", "429", "413"],
)
def test_an_answer_has_the_header_that_its_status_asks_for(
    error: KeyplaneError, header: tuple[bytes, bytes]
) -> None:
    assert headers_of(error) == [header]


def test_another_answer_has_no_header_of_its_own() -> None:
    assert headers_of(KeyNotFoundError("k")) == []


def test_a_limit_of_the_server_is_told_in_the_same_shape() -> None:
    document = orjson.loads(error_body(431, "HEADERS_TOO_LARGE_ERR", "too many headers"))

    assert document == {
        "metadata": {
            "collectionType": "application/vnd.ibm.kms.error+json",
            "collectionTotal": 1,
        },
        "resources": [
            {
                "errorMsg": "Request Header Fields Too Large: too many headers",
                "reasons": [
                    {
                        "code": "HEADERS_TOO_LARGE_ERR",
                        "message": "too many headers",
                        "status": 431,
                        "moreInfo": "docs/rest.md#errors",
                    }
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    "error_class",
    [cls for cls, fault in FAULTS.items() if fault.status >= 500],
    ids=lambda cls: cls.__name__,
)
def test_an_answer_about_a_fault_inside_has_fixed_words(error_class: type[KeyplaneError]) -> None:
    """The error's own words name paths and devices, for administrators."""
    error = error_class.__new__(error_class)
    KeyplaneError.__init__(error, "planted words", hint="planted hint")

    assert b"planted" not in answer_body(error, "Key could not be created")
