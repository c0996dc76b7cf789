"""Headers and bodies are read as every client sends them, and checked before anything uses them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from keyrest.request_errors import (
    BodyTooLargeError,
    InstanceHeaderError,
    InvalidHeaderError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)
from keyrest.requests import BODY_BYTES_MAX, Request

INSTANCE = "0a000000-0000-4000-8000-000000000001"
OTHER = "0a000000-0000-4000-8000-000000000002"
FRESH = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def request(*headers: tuple[str, str]) -> Request:
    """Return a request with these headers."""
    return Request.of(
        {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode("latin-1")) for name, value in headers
            ],
        }
    )


def read(*messages: dict[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Return the body that these ASGI messages carry; reading beyond them fails."""
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    return asyncio.run(request(*headers).body(receive))


def chunk(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("name", ["Correlation-Id", "X-Correlation-ID", "X-Request-Id"])
def test_the_callers_own_correlation_id_is_taken(name: str) -> None:
    assert request((name, "abc-123")).correlation_id == "abc-123"


def test_correlation_id_comes_before_its_fallbacks() -> None:
    sent = request(("X-Request-Id", "c"), ("X-Correlation-ID", "b"), ("Correlation-Id", "a"))

    assert sent.correlation_id == "a"


def test_a_request_without_a_correlation_id_gets_a_fresh_one() -> None:
    first, second = request().correlation_id, request().correlation_id

    assert FRESH.fullmatch(first)
    assert first != second


@pytest.mark.parametrize(
    "given",
    ["two words", "tab\there", "umläut", "x" * 129, "\x7f", "a\x00b"],
    ids=["space", "tab", "not ASCII", "too long", "delete", "nul"],
)
def test_a_correlation_id_that_cannot_be_shown_is_replaced(given: str) -> None:
    assert FRESH.fullmatch(request(("Correlation-Id", given)).correlation_id)


def test_a_correlation_id_of_128_visible_characters_is_kept() -> None:
    longest = "!" * 64 + "~" * 64

    assert request(("Correlation-Id", longest)).correlation_id == longest


@pytest.mark.parametrize("name", ["icp-instance", "Bluemix-Instance"])
def test_either_header_names_the_instance(name: str) -> None:
    assert request((name, INSTANCE)).instance_id() == INSTANCE


def test_both_headers_may_name_the_same_instance_in_different_case() -> None:
    sent = request(("icp-instance", INSTANCE.upper()), ("Bluemix-Instance", INSTANCE))

    assert sent.instance_id() == INSTANCE


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("icp-instance", "")],
        [("icp-instance", "default")],
        [("icp-instance", f"{{{INSTANCE}}}")],
        [("icp-instance", INSTANCE.replace("-", ""))],
        [("icp-instance", INSTANCE), ("Bluemix-Instance", OTHER)],
        [("icp-instance", INSTANCE), ("Bluemix-Instance", "x")],
        [("icp-instance", INSTANCE), ("icp-instance", OTHER)],
        [("icp-instance", "ä" * 36)],
    ],
    ids=[
        *("missing", "empty", "no UUID", "braces", "bare hex"),
        *("different", "one malformed", "given twice", "not ASCII"),
    ],
)
def test_a_request_that_names_no_one_instance_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(InstanceHeaderError):
        request(*headers).instance_id()


def test_two_credentials_never_pass_as_one() -> None:
    sent = request(("Authorization", "Bearer a"), ("Authorization", "Bearer b"))

    assert sent.authorization() == "Bearer a, Bearer b"


def test_no_credential_is_none() -> None:
    assert request().authorization() is None


@pytest.mark.parametrize(
    "prefer",
    [
        "return=representation",
        "RETURN=Representation",
        'return="representation"',
        "respond-async, return=representation",
        "return = representation; foo=bar, wait=10",
    ],
)
def test_the_whole_resource_is_preferred(prefer: str) -> None:
    assert request(("Prefer", prefer)).prefers_representation()


@pytest.mark.parametrize(
    "prefer",
    ["", "return=minimal", "return=everything", "xreturn=representation", "representation"],
)
def test_any_other_preference_is_the_minimal_one(prefer: str) -> None:
    assert not request(("Prefer", prefer)).prefers_representation()


def test_of_two_preferences_the_first_one_counts() -> None:
    sent = request(("Prefer", "return=minimal, return=representation"))

    assert not sent.prefers_representation()


def test_an_idempotency_key_is_optional() -> None:
    assert request().idempotency_key() is None


@pytest.mark.parametrize("given", ["a", "~" * 255, '"quoted"'])
def test_an_idempotency_key_has_1_to_255_visible_characters(given: str) -> None:
    assert request(("Idempotency-Key", given)).idempotency_key() == given


@pytest.mark.parametrize("given", ["", "a b", "~" * 256, "ä"], ids=["none", "space", "long", "ä"])
def test_an_idempotency_key_of_another_form_is_refused(given: str) -> None:
    with pytest.raises(InvalidHeaderError, match="Idempotency-Key"):
        request(("Idempotency-Key", given)).idempotency_key()


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        "application/json, text/plain, */*",
        "APPLICATION/JSON; charset=utf-8",
        "application/vnd.ibm.collection+json",
        "application/vnd.ibm.kms.key_action+json",
        "text/html, application/json;q=0.1",
    ],
)
def test_json_is_accepted_in_every_form_that_clients_ask_for(accept: str) -> None:
    request(("Accept", accept)).accepts()


def test_no_accept_header_accepts_everything() -> None:
    assert request().accepts() == frozenset()


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/json;q=0"])
def test_a_caller_that_takes_no_json_is_told_so(accept: str) -> None:
    with pytest.raises(NotAcceptableError):
        request(("Accept", accept)).accepts()


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.ibm.kms.key+json",
        "application/vnd.ibm.kms.key_action+json",
        "application/vnd.ibm.kms.key_action_wrap+json",
    ],
)
def test_a_body_is_json_in_every_type_that_clients_declare(content_type: str) -> None:
    request(("Content-Type", content_type)).ensure_json(b"{}")


@pytest.mark.parametrize("content_type", ["text/xml", "multipart/form-data", "application/jsonp"])
def test_a_body_of_another_type_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        request(("Content-Type", content_type)).ensure_json(b"{}")


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_a_compressed_body_is_refused_as_such(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as refused:
        request(("Content-Encoding", encoding)).ensure_json(b"{}")
    assert "content-encoding" in refused.value.hint


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_that_says_that_it_is_not_compressed_is_taken(encoding: str) -> None:
    request(("Content-Encoding", encoding)).ensure_json(b"{}")


def test_curl_without_a_type_is_told_what_to_add() -> None:
    sent = request(("Content-Type", "application/x-www-form-urlencoded"))

    with pytest.raises(UnsupportedMediaTypeError) as refused:
        sent.ensure_json(b"{}")

    assert "curl -d declares a form unless -H says otherwise" in refused.value.hint


def test_the_type_of_a_body_that_is_not_there_does_not_matter() -> None:
    request(("Content-Type", "text/xml")).ensure_json(b"")


def test_a_body_is_read_to_its_end() -> None:
    assert read(chunk(b"ab", more=True), chunk(b"", more=True), chunk(b"c")) == b"abc"


def test_a_body_of_one_mebibyte_is_read() -> None:
    assert len(read(chunk(b"x" * BODY_BYTES_MAX))) == BODY_BYTES_MAX


def test_a_body_that_declares_too_much_is_refused_unread() -> None:
    with pytest.raises(BodyTooLargeError):
        read(headers=(("Content-Length", str(BODY_BYTES_MAX + 1)),))


def test_a_chunked_body_is_refused_at_the_first_byte_too_many() -> None:
    with pytest.raises(BodyTooLargeError):
        read(chunk(b"x" * BODY_BYTES_MAX, more=True), chunk(b"x", more=True))


def test_a_caller_that_hangs_up_is_no_caller_any_more() -> None:
    with pytest.raises(ClientDisconnect):
        read(chunk(b"{", more=True), {"type": "http.disconnect"})


@pytest.mark.parametrize("raw", [b"/kms%2Fapi/v2/keys", b"/kms/api/v2/keys%2fx"])
def test_a_path_with_a_slash_in_disguise_leads_nowhere(raw: bytes) -> None:
    """Whoever filters paths in front of the server sees another one than it would."""
    decoded = raw.replace(b"%2F", b"/").replace(b"%2f", b"/").decode()
    scope = {"method": "GET", "path": decoded, "raw_path": raw, "query_string": b"", "headers": []}

    assert Request.of(scope).path == ""


def test_other_escapes_in_a_path_are_resolved() -> None:
    scope = {
        "method": "GET",
        "path": "/api/v2/keys/abc",
        "raw_path": b"/api/v2/keys/%61bc",
        "query_string": b"",
        "headers": [],
    }

    assert Request.of(scope).path == "/api/v2/keys/abc"
