"""The bodies of requests: what each may hold, and what a wrong one is told.

The models give the form; every rule about values is the core's, which sees them
next. ``null`` counts as a field that is left away, except for ``extractable``.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from keycore.domain.keys import KeyKind
from keycore.errors import CiphertextMalformedError, InvalidRequestError
from keycore.service.creation import NewKey
from keyrest.fields import FIELDS
from keyrest.request_errors import (
    BodyActionMismatchError,
    CollectionTotalError,
    InvalidBodyError,
    MissingBodyError,
)

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)

_NAME_CHARACTERS_SHOWN = 64
"""How much of an unknown field's name an answer repeats."""


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CollectionMetadata(_Body):
    """What a collection says about itself."""

    collectionType: Literal["application/vnd.ibm.kms.key+json"]  # noqa: N815 - the name in JSON.
    collectionTotal: int  # noqa: N815


class KeyResource(_Body):
    """A key to be made."""

    type: Literal["application/vnd.ibm.kms.key+json"] | None = None
    name: str
    description: str | None = None
    expirationDate: str | None = None  # noqa: N815
    extractable: bool = True
    payload: str | None = Field(default=None, repr=False)
    aliases: list[str] | None = None
    # The Go client writes it with a capital letter.
    tags: list[str] | None = Field(default=None, validation_alias=AliasChoices("tags", "Tags"))


class KeyCollection(_Body):
    """The body of create and import."""

    metadata: CollectionMetadata
    resources: Annotated[list[KeyResource], Field(min_length=1)]


class WrapBody(_Body):
    """The body of wrap."""

    plaintext: str | None = Field(default=None, repr=False)
    aad: list[str] | None = None


class UnwrapBody(_Body):
    """The body of unwrap and rewrap."""

    ciphertext: str = Field(repr=False)
    aad: list[str] | None = None


class RotateBody(_Body):
    """The body of rotate."""

    payload: str | None = Field(default=None, repr=False)


class EmptyBody(_Body):
    """The body of actions that take nothing."""


_ACTION_FIELDS = frozenset(WrapBody.model_fields) | {"ciphertext", "payload"}
"""Fields that belong to some action, if not to the one that was asked for."""

BodyT = TypeVar("BodyT", bound=_Body)


@dataclass(frozen=True, slots=True)
class WrapArguments:
    """What wrap takes: up to 4096 bytes, or ``None`` for a new data key."""

    plaintext: bytes | None = field(repr=False)
    aad: Sequence[str]


@dataclass(frozen=True, slots=True)
class UnwrapArguments:
    """What unwrap and rewrap take."""

    ciphertext: bytes = field(repr=False)
    aad: Sequence[str]


def read_wrap(body: bytes) -> WrapArguments:
    """Return the arguments of wrap; no body asks for a new data key.

    Raises:
        InvalidRequestError: the body is no JSON of that form.
    """
    given = _read_action(WrapBody, body, "wrap")
    plaintext = None if given.plaintext is None else _decoded(given.plaintext, "plaintext")
    return WrapArguments(plaintext, given.aad or ())


def read_unwrap(body: bytes, action: str = "unwrap") -> UnwrapArguments:
    """Return the arguments of unwrap or rewrap.

    Raises:
        MissingBodyError: there is no body.
        InvalidRequestError: the body is no JSON of that form.
    """
    if _is_absent(body):
        raise MissingBodyError
    given = _read_action(UnwrapBody, body, action)
    try:
        ciphertext = _decoded(given.ciphertext, "ciphertext")
    except InvalidRequestError:
        raise CiphertextMalformedError from None
    return UnwrapArguments(ciphertext, given.aad or ())


def read_rotate(body: bytes) -> bytes | None:
    """Return the new key material of an imported key, ``None`` when none is given.

    Raises:
        InvalidRequestError: the body is no JSON of that form.
    """
    given = _read_action(RotateBody, body, "rotate")
    return None if given.payload is None else _decoded(given.payload, "payload")


def read_nothing(body: bytes, action: str) -> None:
    """Check that an action without arguments gets none.

    Raises:
        InvalidRequestError: there is a body that is neither ``{}`` nor ``null``.
    """
    _read_action(EmptyBody, body, action)


def read_new_key(body: bytes) -> NewKey:
    """Return the key that the body of create or import asks for.

    Raises:
        MissingBodyError: there is no body.
        CollectionTotalError: the total is not the number of resources.
        InvalidRequestError: the body is no JSON of that form.
    """
    if _is_absent(body):
        raise MissingBodyError
    collection = _read(KeyCollection, body, "")
    if len(collection.resources) > 1:
        raise InvalidBodyError("Only creation of one key per request is supported")
    if collection.metadata.collectionTotal != len(collection.resources):
        raise CollectionTotalError
    return _new_key(collection.resources[0])


def _new_key(wanted: KeyResource) -> NewKey:
    return NewKey(
        name=wanted.name,
        kind=KeyKind.STANDARD if wanted.extractable else KeyKind.ROOT,
        description=wanted.description,
        expires_at=None if wanted.expirationDate is None else _time(wanted.expirationDate),
        material=None if wanted.payload is None else _decoded(wanted.payload, "payload"),
        aliases=tuple(wanted.aliases or ()),
        tags=tuple(wanted.tags or ()),
    )


def _is_absent(body: bytes) -> bool:
    return body.strip() in (b"", b"null")


def _read_action(model: type[BodyT], body: bytes, action: str) -> BodyT:
    return _read(model, b"{}" if _is_absent(body) else body, action)


def _read(model: type[BodyT], body: bytes, action: str) -> BodyT:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # NB: never its own text, which quotes the body.
        faults = error.errors(include_input=False, include_url=False)
    raise min((_refusal(fault, action, body) for fault in faults), key=_rank)


def _rank(refusal: InvalidRequestError) -> bool:
    """Put faults of the whole body before those of single fields."""
    return not isinstance(refusal, InvalidBodyError)


def _refusal(fault: ErrorDetails, action: str, body: bytes) -> InvalidRequestError:
    """Return what the caller is told about one fault that pydantic found."""
    name = next((str(part) for part in reversed(fault["loc"]) if isinstance(part, str)), "")
    match fault["type"]:
        case "json_invalid":
            hint = "JSON has double quotes only" if b"'" in body else ""
            return InvalidBodyError(
                f"the body is not JSON: {_reason(fault.get('ctx', {}))}", hint=hint
            )
        case "extra_forbidden" if action and name in _ACTION_FIELDS:
            return BodyActionMismatchError(name, action)
        case "extra_forbidden":
            return InvalidBodyError(f'unknown field "{name[:_NAME_CHARACTERS_SHOWN]}"')
        case kind if name in FIELDS and "metadata" not in fault["loc"]:
            wrong = "is missing" if kind == "missing" else "has another type or value"
            return InvalidRequestError(f"{name} {wrong}", field=name)
        case _:
            return InvalidBodyError(f"{name or 'the body'} is missing, empty or of another type")


def _reason(context: Mapping[str, Any]) -> str:
    """Return the parser's reason, which names a position and quotes nothing."""
    return str(context.get("error", "it cannot be parsed"))


def _decoded(text: str, name: str) -> bytes:
    """Return the bytes of padded base64 (RFC 4648, 4) in its only canonical spelling."""
    try:
        data = binascii.a2b_base64(text)
    except ValueError:
        data = b""
    # Encoding it again finds line breaks, foreign characters and stray bits at once.
    if not text or binascii.b2a_base64(data, newline=False).decode() != text:
        raise InvalidRequestError(f"{name} is not canonical, padded base64 on one line", field=name)
    return data


def _time(text: str) -> datetime:
    try:
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        # It has the form of a time that no calendar or no clock has.
        pass
    raise InvalidRequestError(
        "expirationDate is no time with date, clock and offset", field="expirationDate"
    )
