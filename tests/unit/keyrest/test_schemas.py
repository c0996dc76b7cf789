"""Bodies of requests: what is taken, and what each wrong one is told."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from keycore.domain.keys import KeyKind
from keycore.errors import CiphertextMalformedError, InvalidRequestError
from keyrest.request_errors import (
    BodyActionMismatchError,
    CollectionTotalError,
    InvalidBodyError,
    MissingBodyError,
)
from keyrest.schemas import read_new_key, read_nothing, read_rotate, read_unwrap, read_wrap
from tests.fakes.rest_site import KEY_TYPE, b64, new_key

SECRET = "c2VjcmV0LXBhc3N3b3Jk"


def body(document: Any) -> bytes:
    return orjson.dumps(document)


def refusal(read: Callable[[bytes], object], sent: bytes) -> InvalidRequestError:
    """Return what a body is refused with."""
    with pytest.raises(InvalidRequestError) as refused:
        read(sent)
    return refused.value


# --- create and import --------------------------------------------------------


def test_the_body_of_every_client_asks_for_a_key() -> None:
    wanted = read_new_key(body(new_key(name="etcd", extractable=False)))

    assert (wanted.name, wanted.kind, wanted.material) == ("etcd", KeyKind.ROOT, None)


def test_a_key_is_a_standard_key_unless_it_says_otherwise() -> None:
    assert read_new_key(body(new_key())).kind is KeyKind.STANDARD


def test_a_key_may_come_with_everything() -> None:
    wanted = read_new_key(
        body(
            new_key(
                description="for tests",
                expirationDate="2030-04-01T00:00:00Z",
                payload=b64(b"k" * 32),
                aliases=["one", "two"],
                tags=["red"],
            )
        )
    )

    assert wanted.description == "for tests"
    assert wanted.expires_at == datetime(2030, 4, 1, tzinfo=UTC)
    assert wanted.material == b"k" * 32
    assert (wanted.aliases, wanted.tags) == (("one", "two"), ("red",))


@pytest.mark.parametrize("absent", ["description", "expirationDate", "payload", "aliases", "tags"])
def test_null_is_a_field_that_is_left_away(absent: str) -> None:
    assert read_new_key(body(new_key(**{absent: None}))) == read_new_key(body(new_key()))


def test_the_tags_of_the_go_client_have_a_capital_letter() -> None:
    assert read_new_key(body(new_key(Tags=["red"]))).tags == ("red",)


def test_the_type_of_a_resource_may_be_left_away() -> None:
    document = new_key()
    del document["resources"][0]["type"]

    assert read_new_key(body(document)).name == "a key"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-04-01T12:00:00Z", datetime(2030, 4, 1, 12, tzinfo=UTC)),
        ("2030-04-01T12:00:00.25Z", datetime(2030, 4, 1, 12, 0, 0, 250000, tzinfo=UTC)),
        ("2030-04-01T12:00:00.123456789Z", datetime(2030, 4, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2030-04-01t12:00:00z", datetime(2030, 4, 1, 12, tzinfo=UTC)),
        ("2030-04-01 12:00:00.5Z", datetime(2030, 4, 1, 12, 0, 0, 500000, tzinfo=UTC)),
        ("2030-04-01T14:00:00+02:00", datetime(2030, 4, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_time_is_taken_in_every_form_of_rfc_3339(text: str, moment: datetime) -> None:
    assert read_new_key(body(new_key(expirationDate=text))).expires_at == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2030-04-01",
        "2030-04-01T12:00:00",
        "1900000000",
        "2030-02-30T00:00:00Z",
        "2030-04-01T24:00:01Z",
        "2030-04-01T12:00:60Z",
        "9999-12-31T23:59:59-01:00",
        "٢٠٣٠-04-01T12:00:00Z",
        "20300401T120000Z",
    ],
)
def test_another_text_is_no_time(text: str) -> None:
    refused = refusal(read_new_key, body(new_key(expirationDate=text)))

    assert refused.field == "expirationDate"


def test_two_resources_are_refused() -> None:
    document = new_key()
    document["resources"] *= 2

    refused = refusal(read_new_key, body(document))

    assert isinstance(refused, InvalidBodyError)
    assert refused.message == "Only creation of one key per request is supported"


@pytest.mark.parametrize("total", [0, 2, -1])
def test_a_total_that_is_not_the_number_of_resources_is_refused(total: int) -> None:
    document = new_key()
    document["metadata"]["collectionTotal"] = total

    with pytest.raises(CollectionTotalError):
        read_new_key(body(document))


@pytest.mark.parametrize("sent", [b"", b" \n", b"null"])
def test_a_create_without_a_body_is_refused(sent: bytes) -> None:
    with pytest.raises(MissingBodyError):
        read_new_key(sent)


@pytest.mark.parametrize(
    "changed",
    [
        {"metadata": {}},
        {"metadata": None},
        {"metadata": {"collectionType": KEY_TYPE}},
        {"metadata": {"collectionType": KEY_TYPE, "collectionTotal": "1"}},
        {"metadata": {"collectionType": KEY_TYPE, "collectionTotal": True}},
        {"metadata": {"collectionType": "application/json", "collectionTotal": 1}},
        {"metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1, "more": 1}},
        {"resources": []},
        {"resources": None},
        {"resources": [None]},
        {"resources": ["key"]},
        {"resources": {}},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_collection_of_another_form_is_a_bad_body(changed: dict[str, Any]) -> None:
    assert isinstance(refusal(read_new_key, body({**new_key(), **changed})), InvalidBodyError)


@pytest.mark.parametrize("missing", ["metadata", "resources"])
def test_a_collection_has_metadata_and_resources(missing: str) -> None:
    document = new_key()
    del document[missing]

    assert isinstance(refusal(read_new_key, body(document)), InvalidBodyError)


def test_an_unknown_field_is_a_bad_body_that_names_it() -> None:
    refused = refusal(read_new_key, body(new_key(extra_field="junk")))

    assert isinstance(refused, InvalidBodyError)
    assert refused.message == 'unknown field "extra_field"'


def test_the_name_of_an_unknown_field_is_cut() -> None:
    refused = refusal(read_new_key, body(new_key(**{"x" * 1000: 1})))

    assert refused.message == f'unknown field "{"x" * 64}"'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", 5),
        ("type", "application/json"),
        ("description", 5),
        ("extractable", None),
        ("extractable", "true"),
        ("extractable", 1),
        ("payload", 5),
        ("payload", ""),
        ("payload", "not base64!"),
        ("aliases", "one"),
        ("aliases", [5]),
        ("tags", [None]),
    ],
    ids=repr,
)
def test_a_field_of_another_type_is_named(field: str, value: Any) -> None:
    refused = refusal(read_new_key, body(new_key(**{field: value})))

    assert not isinstance(refused, InvalidBodyError)
    assert refused.field == field


def test_a_key_needs_a_name() -> None:
    document = new_key()
    del document["resources"][0]["name"]

    assert refusal(read_new_key, body(document)).field == "name"


# --- actions --------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b" ", b"{}", b"null", b'{"plaintext":null,"aad":null}'])
def test_wrap_without_a_plaintext_asks_for_a_new_data_key(sent: bytes) -> None:
    given = read_wrap(sent)

    assert given.plaintext is None
    assert list(given.aad) == []


def test_wrap_takes_a_plaintext_and_aad() -> None:
    given = read_wrap(body({"plaintext": b64(b"key"), "aad": ["a", "", "ä"]}))

    assert (given.plaintext, given.aad) == (b"key", ["a", "", "ä"])


def test_an_empty_aad_is_no_aad() -> None:
    assert list(read_wrap(body({"aad": []})).aad) == []


@pytest.mark.parametrize("aad", [[None], [5], "text", {"a": "b"}, [["a"]]], ids=repr)
def test_aad_is_a_list_of_texts(aad: Any) -> None:
    assert refusal(read_wrap, body({"aad": aad})).field == "aad"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "YQ",
        "YR==",
        "YQ==\n",
        " YQ==",
        "YQ==YQ==",
        "_-8=",
        "ä===",
        "====",
        "Y Q = =",
        "YQ=",
    ],
    ids=repr,
)
def test_base64_has_one_spelling_only(text: str) -> None:
    assert refusal(read_wrap, body({"plaintext": text})).field == "plaintext"


@pytest.mark.parametrize("sent", [b"", b" ", b"null"])
@pytest.mark.parametrize("action", ["unwrap", "rewrap"])
def test_unwrap_and_rewrap_need_a_body(action: str, sent: bytes) -> None:
    with pytest.raises(MissingBodyError):
        read_unwrap(sent, action)


@pytest.mark.parametrize("document", [{}, {"aad": []}, {"ciphertext": None}, {"ciphertext": 5}])
def test_unwrap_needs_a_ciphertext(document: dict[str, Any]) -> None:
    assert refusal(read_unwrap, body(document)).field == "ciphertext"


@pytest.mark.parametrize("text", ["", "wdek!", "YR=="])
def test_a_ciphertext_that_is_not_base64_is_malformed(text: str) -> None:
    with pytest.raises(CiphertextMalformedError):
        read_unwrap(body({"ciphertext": text}))


@pytest.mark.parametrize("sent", [b"", b"{}", b"null", b'{"payload":null}'])
def test_rotate_without_a_payload_generates(sent: bytes) -> None:
    assert read_rotate(sent) is None


def test_rotate_takes_new_material() -> None:
    assert read_rotate(body({"payload": b64(b"k" * 32)})) == b"k" * 32


@pytest.mark.parametrize("sent", [b"", b"{}", b"null"])
def test_enable_and_disable_take_no_body(sent: bytes) -> None:
    read_nothing(sent, "enable")


@pytest.mark.parametrize(
    ("read", "field"),
    [
        (read_wrap, "ciphertext"),
        (read_wrap, "payload"),
        (read_unwrap, "plaintext"),
        (read_unwrap, "payload"),
        (read_rotate, "plaintext"),
        (read_rotate, "aad"),
        (lambda sent: read_nothing(sent, "disable"), "payload"),
    ],
)
def test_a_field_of_another_action_is_a_mismatch(
    read: Callable[[bytes], object], field: str
) -> None:
    refused = refusal(read, body({field: SECRET}))

    assert isinstance(refused, BodyActionMismatchError)


def test_a_field_of_no_action_is_a_bad_body() -> None:
    refused = refusal(read_wrap, body({"plaintxt": SECRET}))

    assert isinstance(refused, InvalidBodyError)
    assert not isinstance(refused, BodyActionMismatchError)
    assert refused.message == 'unknown field "plaintxt"'


def test_a_fault_of_the_whole_body_comes_before_one_of_a_field() -> None:
    refused = refusal(read_wrap, body({"plaintext": 5, "unknown": 1}))

    assert isinstance(refused, InvalidBodyError)


@pytest.mark.parametrize(
    "sent",
    [
        b"{ plaintext: <data_key>, aad: [<additional_data>] }",
        b"plaintext=abc",
        b"[]",
        b'"text"',
        b"5",
        b"{",
        b'{"plaintext":"YQ=="} trailing',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"aad":["\\ud800"]}',
        b'{"aad":["\xed\xa0\x80"]}',
        b'{"aad":' + b"[" * 5000,
        b'{"plaintext":NaN',
    ],
    ids=[
        *("what the seed's sample sends", "a form", "a list", "a text", "a number", "cut"),
        *("more after it", "UTF-16 mark", "UTF-8 mark", "lone surrogate", "bad UTF-8"),
        *("very deep", "NaN"),
    ],
)
def test_what_is_no_json_object_is_a_bad_body(sent: bytes) -> None:
    assert isinstance(refusal(read_wrap, sent), InvalidBodyError)


@pytest.mark.parametrize(
    ("read", "sent"),
    [
        (read_wrap, body({"plaintext": [SECRET]})),
        (read_wrap, body({"plaintext": f"{SECRET}!"})),
        (read_wrap, b'{"plaintext":"' + SECRET.encode()),
        (read_wrap, b'{"plaintext":"' + SECRET.encode() + b"\\x"),
        (read_unwrap, body({"ciphertext": f"{SECRET}!"})),
        (read_rotate, body({"payload": {"a": SECRET}})),
        (read_new_key, body(new_key(payload=[SECRET]))),
        (read_new_key, body(new_key(payload=f"{SECRET}!"))),
    ],
)
def test_no_refusal_repeats_a_value(read: Callable[[bytes], object], sent: bytes) -> None:
    refused = refusal(read, sent)

    assert SECRET not in f"{refused!r} {refused.message} {refused.hint} {refused.__context__!r}"


@pytest.mark.parametrize(
    "given",
    [
        read_wrap(body({"plaintext": SECRET})),
        read_unwrap(body({"ciphertext": SECRET})),
        read_new_key(body(new_key(payload=SECRET))),
    ],
)
def test_no_argument_shows_a_secret(given: object) -> None:
    assert SECRET not in repr(given)
    assert str(base64.b64decode(SECRET)) not in repr(given)
