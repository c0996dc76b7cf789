"""The error tree: complete in its picture, with codes that clients can rely on."""

from __future__ import annotations

import re

import keycore.errors
from keycore.errors import (
    CiphertextMalformedError,
    CiphertextRejectedError,
    IntegrityError,
    InvalidRequestError,
    KeyDeletedError,
    KeyNotFoundError,
    KeyplaneError,
    KeyStateError,
)


def all_errors(root: type[KeyplaneError] = KeyplaneError) -> list[type[KeyplaneError]]:
    """Return the classes of the tree that the core defines, depth first, in order."""
    below = [error for child in root.__subclasses__() for error in all_errors(child)]
    return [root, *(error for error in below if error.__module__ == keycore.errors.__name__)]


def drawn_tree() -> list[tuple[str, str]]:
    """Return (class, parent) of every line of the picture in the module's docstring."""
    drawn: list[tuple[str, str]] = []
    path: list[str] = []
    for line in (keycore.errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn.append((found[2], path[depth - 1] if depth else ""))
    return drawn


def test_the_picture_shows_every_class_below_its_parent() -> None:
    defined = {
        (error.__name__, error.__base__.__name__ if error is not KeyplaneError else "")
        for error in all_errors()
        if error.__base__ is not None
    }

    assert len(drawn_tree()) == len(defined)
    assert set(drawn_tree()) == defined


def test_no_two_classes_share_a_code() -> None:
    codes = [error.code for error in all_errors()]

    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_codes_never_change() -> None:
    """Audit lines, conditions and clients rely on them; a new class adds a line here."""
    assert {error.code for error in all_errors()} == {
        "access",
        "access_denied",
        "idempotency_key_reused",
        "issuer_unavailable",
        "too_many_requests",
        "payload_not_allowed",
        "unauthenticated",
        "already_exists",
        "audit_unavailable",
        "already_initialised",
        "ciphertext_malformed",
        "ciphertext_rejected",
        "conflict",
        "instance_not_found",
        "integrity",
        "invalid_request",
        "key_deleted",
        "key_exhausted",
        "key_in_use",
        "key_not_found",
        "key_owned",
        "key_state",
        "keyplane",
        "node_not_found",
        "not_a_root_key",
        "not_found",
        "not_initialised",
        "payload_required",
        "pin_rejected",
        "provider_not_found",
        "provider_unbound",
        "rotation_pending",
        "settings",
        "setup",
        "socket_in_use",
        "store_setup",
        "store_unavailable",
        "store_unconfirmed",
        "token_setup",
        "token_unavailable",
        "unavailable",
        "wrong_user",
    }


def test_an_error_keeps_its_message_and_hint() -> None:
    error = KeyStateError("key 1 is suspended", hint="resume it")

    assert (str(error), error.message, error.hint) == (
        "key 1 is suspended",
        "key 1 is suspended",
        "resume it",
    )
    assert KeyStateError("no hint").hint == ""


def test_a_refused_request_names_its_field() -> None:
    assert InvalidRequestError("too long", field="name").field == "name"
    assert InvalidRequestError("too long").field == ""
    assert CiphertextMalformedError().field == "ciphertext"


def test_messages_name_the_thing_by_its_id() -> None:
    assert KeyNotFoundError("1").message == "key 1 does not exist"
    assert KeyDeletedError("1").message == "key 1 has been deleted"
    assert "the key record 1 fails" in IntegrityError("key", "1").message
    assert IntegrityError("key", "1").hint


def test_a_rejected_ciphertext_never_says_why() -> None:
    assert CiphertextRejectedError().args == ("the ciphertext is invalid or corrupted",)
    assert CiphertextRejectedError().hint == ""
