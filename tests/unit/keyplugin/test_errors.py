"""The table from domain errors to gRPC codes is complete and says what was decided."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grpc import StatusCode

from keycore.errors import (
    CiphertextMalformedError,
    CiphertextRejectedError,
    IntegrityError,
    KeyExhaustedError,
    KeyNotFoundError,
    KeyplaneError,
    ProviderUnboundError,
    StoreUnavailableError,
    TokenSetupError,
    TokenUnavailableError,
)
from keyplugin.errors import GRPC_CODES, describe, grpc_code_of


def subclasses(cls: type[KeyplaneError]) -> Iterator[type[KeyplaneError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize("cls", sorted(subclasses(KeyplaneError), key=lambda cls: cls.__name__))
def test_every_domain_error_is_in_the_table_or_below_a_class_that_is(
    cls: type[KeyplaneError],
) -> None:
    assert any(ancestor in GRPC_CODES for ancestor in cls.__mro__)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CiphertextMalformedError(), StatusCode.INVALID_ARGUMENT),
        (CiphertextRejectedError(), StatusCode.INVALID_ARGUMENT),
        (KeyNotFoundError("k"), StatusCode.NOT_FOUND),
        (ProviderUnboundError("unbound"), StatusCode.FAILED_PRECONDITION),
        (KeyExhaustedError("used up"), StatusCode.FAILED_PRECONDITION),
        (TokenSetupError("missing"), StatusCode.FAILED_PRECONDITION),
        (TokenUnavailableError("gone"), StatusCode.UNAVAILABLE),
        (StoreUnavailableError("gone"), StatusCode.UNAVAILABLE),
        (IntegrityError("key", "k"), StatusCode.DATA_LOSS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KeyplaneError) else value.name,
)
def test_an_error_has_the_code_of_its_branch(error: KeyplaneError, code: StatusCode) -> None:
    assert grpc_code_of(error) is code


def test_an_error_outside_of_every_branch_is_internal() -> None:
    assert grpc_code_of(KeyplaneError("new")) is StatusCode.INTERNAL


def test_the_text_names_the_fix_when_the_error_knows_one() -> None:
    assert describe(KeyplaneError("what", hint="fix")) == "what; fix"


def test_the_text_is_the_message_alone_when_there_is_no_hint() -> None:
    assert describe(KeyplaneError("what")) == "what"
