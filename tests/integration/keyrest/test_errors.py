"""Every refusal has the one shape, and none tells more than it must."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from keycore.domain.keys import KeyKind
from tests.fakes.rest_site import FakeSite, b64, new_key, reason, rest_site
from tests.unit.keycore.examples import tamper_key

SOME_UUID = "0a000000-0000-4000-8000-00000000dead"


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeSite]:
    """A site for tests that change nothing another one looks at."""
    with rest_site() as site:
        yield site


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with rest_site() as site:
        yield site


def shown(response: httpx.Response) -> tuple[int, bytes, str]:
    """Return all that a caller can tell answers apart by."""
    reason(response)
    headers = {name: value for name, value in response.headers.items() if name != "correlation-id"}
    return response.status_code, response.content, str(headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/kms", 404),
        ("GET", "/keys/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/keys/%2e%2e/x", 404),
        ("PATCH", "/keys/etcd", 405),
        ("OPTIONS", "/keys", 405),
        ("TRACE", "/keys", 405),
        ("DELETE", "/keys", 405),
        ("HEAD", "/keys/etcd", 405),
        ("PROPFIND", "/keys", 405),
        ("GET", "/keys/etcd/policies", 404),
        ("POST", "/keys/etcd/restore", 404),
        ("POST", "/key_rings/x", 404),
        ("POST", "/keys/etcd/actions/sync", 404),
        ("GET", "/keys/etcd/actions/wrap", 405),
    ],
)
def test_what_is_not_served_is_refused_in_the_same_shape(
    shared: FakeSite, method: str, path: str, status: int
) -> None:
    url = path if path.startswith("/keys") else f"/kms{path}"
    response = shared.send(method, url, caller=None, instance=None)

    assert response.status_code == status
    if method != "HEAD":
        assert reason(response)["status"] == status
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("difference", ["wrong aad", "no aad", "other key", "broken tag"])
def test_every_reason_why_a_ciphertext_does_not_open_looks_the_same(
    shared: FakeSite, difference: str
) -> None:
    key, other = shared.root_key(), shared.root_key()
    ciphertext = shared.wrapped(key.id, ["tenant"])
    broken = bytearray(base64.b64decode(ciphertext))
    broken[-1] ^= 1
    requests = {
        "wrong aad": (key.id, ciphertext, ["another"]),
        "no aad": (key.id, ciphertext, []),
        "other key": (other.id, ciphertext, ["tenant"]),
        "broken tag": (key.id, b64(bytes(broken)), ["tenant"]),
    }

    answers = {
        name: shown(shared.act("unwrap", key_id, {"ciphertext": sent, "aad": aad}))
        for name, (key_id, sent, aad) in requests.items()
    }

    assert answers[difference] == answers["wrong aad"]
    assert answers[difference][0] == 422


def test_one_flipped_bit_anywhere_never_opens_to_anything(site: FakeSite) -> None:
    key = site.root_key()
    ciphertext = base64.b64decode(site.wrapped(key.id))

    for position in range(len(ciphertext)):
        flipped = bytearray(ciphertext)
        flipped[position] ^= 1 << (position % 8)
        response = site.act("unwrap", key.id, {"ciphertext": b64(bytes(flipped))})
        expected = 400 if position < 2 else 422
        assert response.status_code == expected, position


def test_another_spelling_of_a_ciphertext_does_not_open(site: FakeSite) -> None:
    key = site.root_key()
    ciphertext = site.wrapped(key.id)
    spellings = [
        ciphertext[:position] + other + ciphertext[position + 1 :]
        for position in range(len(ciphertext))
        for other in ("A", "/", "=", "\n", "-")
        if ciphertext[position] != other
    ]

    statuses = {site.act("unwrap", key.id, {"ciphertext": text}).status_code for text in spellings}

    assert statuses == {400, 422}


@pytest.mark.parametrize("size", [0, 1, 46, 4143, 10_000])
def test_a_ciphertext_of_an_impossible_length_is_malformed(shared: FakeSite, size: int) -> None:
    refused = reason(
        shared.act(
            "unwrap", shared.root_key().id, {"ciphertext": b64(b"\x01\x01" + bytes(size))[:-4]}
        )
    )

    assert (refused["status"], refused["code"]) == (400, "INVALID_FIELD_ERR")
    assert refused["target"] == {"type": "field", "name": "ciphertext"}


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("wrap", b"{ plaintext: <data_key>, aad: [<x>, <y>] }", "BAD_BODY_ERR"),
        ("wrap", b'{"unknown":1}', "BAD_BODY_ERR"),
        ("wrap", b'{"ciphertext":"eA=="}', "BODY_QUERY_PARAM_MISMATCH_ERR"),
        ("unwrap", b"", "NO_BODY_ERR"),
        ("rewrap", b"", "NO_BODY_ERR"),
        ("unwrap", b"{}", "INVALID_FIELD_ERR"),
        ("rotate", b'{"plaintext":"eA=="}', "BODY_QUERY_PARAM_MISMATCH_ERR"),
        ("enable", b'{"payload":"eA=="}', "BODY_QUERY_PARAM_MISMATCH_ERR"),
        ("disable", b"[]", "BAD_BODY_ERR"),
    ],
)
@pytest.mark.parametrize("form", ["/keys/{}/actions/{}", "/keys/{}?action={}"])
def test_a_body_that_does_not_fit_its_action_is_told_by_code(
    shared: FakeSite, form: str, action: str, body: bytes, code: str
) -> None:
    key = shared.root_key()

    refused = reason(shared.send("POST", form.format(key.id, action), content=body))

    assert (refused["status"], refused["code"]) == (400, code)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=5001", "limit"),
        ("limit=abc", "limit"),
        ("offset=-1", "offset"),
        ("state=4", "state"),
        ("state=x", "state"),
        ("extractable=1", "extractable"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_parameter_out_of_bounds_is_named(
    shared: FakeSite, method: str, query: str, name: str
) -> None:
    response = shared.send(method, f"/keys?{query}")

    if method == "HEAD" and name in ("limit", "offset"):
        # A count has no pages.
        assert response.status_code == 200
    elif method == "HEAD":
        assert response.status_code == 400
    else:
        refused = reason(response)
        assert (refused["status"], refused["code"]) == (400, "INVALID_QUERY_PARAM_ERR")
        assert refused["target"] == {"type": "query_param", "name": name}


def test_limits_are_told_in_the_words_of_the_contract(shared: FakeSite) -> None:
    assert reason(shared.send("GET", "/keys?limit=0"))["message"].endswith(
        "must be: an integer between 1 and 5000 (inclusive)"
    )


def test_a_standard_key_wraps_nothing(shared: FakeSite) -> None:
    standard = shared.root_key(kind=KeyKind.STANDARD)

    refused = reason(shared.act("wrap", standard.id))

    assert (refused["status"], refused["code"]) == (400, "KEY_ROOT_REQ_ERR")


@pytest.mark.parametrize("headers", [{}, {"icp-instance": "x"}, {"icp-instance": SOME_UUID}])
def test_the_instance_header_is_refused_word_by_word(
    shared: FakeSite, headers: dict[str, str]
) -> None:
    instance = "" if "-" in headers.get("icp-instance", "") else None

    refused = reason(shared.send("GET", "/keys", instance=instance, headers=headers))

    assert refused["status"] == 400
    assert refused["errorMsg"] == (
        "Bad Request: Request requires valid Instance Header containing a valid UUID"
    )


@pytest.mark.parametrize("caller", [None, "Mallory"])
def test_whoever_is_not_known_is_told_nothing_else(shared: FakeSite, caller: str | None) -> None:
    response = shared.send("GET", "/keys", caller=caller)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert reason(response)["errorMsg"] == (
        "Unauthorized: The user does not have access to the specified resource"
    )


def test_an_unknown_instance_looks_like_a_missing_role(shared: FakeSite) -> None:
    no_role = shared.send("GET", "/keys", caller="Viewer")
    no_instance = shared.send("GET", "/keys", caller="ClusterAdministrator", instance=SOME_UUID)

    assert shown(no_role) == shown(no_instance)
    assert reason(no_role)["errorMsg"] == (
        "Forbidden: Your access token is not authorized to access this resource."
    )


@pytest.mark.parametrize("part", ["token", "store"])
def test_without_token_or_store_the_caller_may_try_again(site: FakeSite, part: str) -> None:
    key = site.root_key()
    site.wrapped(key.id)
    getattr(site.here, part).lost = True
    site.here.clock.advance(seconds=1)

    refused = reason(site.act("wrap", key.id))

    assert refused["status"] == 503
    assert refused["errorMsg"] == (
        "Unavailable Experiencing delays. Please try again in few minutes."
    )


def test_a_changed_record_is_no_fault_of_the_caller(site: FakeSite) -> None:
    key = site.root_key()
    tamper_key(site.here, key.id, name="another name")

    for response in (site.send("GET", f"/keys/{key.id}"), site.act("wrap", key.id)):
        refused = reason(response)
        assert (refused["status"], refused["code"]) == (500, "INCOMPLETE_METADATA_ERR")
        assert "another name" not in response.text
        assert key.id not in response.text


def test_a_large_body_is_refused_and_ends_the_connection(shared: FakeSite) -> None:
    response = shared.send("POST", "/keys", content=b"x" * (1024 * 1024 + 1))

    assert response.status_code == 413
    assert response.headers["connection"] == "close"


def test_a_form_is_told_how_to_become_json(shared: FakeSite) -> None:
    refused = reason(
        shared.send(
            "POST",
            "/keys",
            json=new_key(),
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
    )

    assert refused["status"] == 415
    assert "content-type: application/json" in refused["message"]


@pytest.mark.parametrize("document", [[], {}, {"resources": [{}]}, 5, None, "text"], ids=repr)
def test_a_create_of_another_form_is_refused(shared: FakeSite, document: Any) -> None:
    assert reason(shared.send("POST", "/keys", json=document))["status"] == 400
