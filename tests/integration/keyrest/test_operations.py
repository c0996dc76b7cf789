"""The operations of the REST contract, sentence by sentence, through the whole application.

What the fakes below cannot show (a real token and store) is in ``test_softhsm.py``;
limits of connections and TLS are the server's own tests.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from keycore.domain.ids import KeyId, new_uuid
from keycore.domain.keys import KeyKind
from tests.fakes.installation import CALLER
from tests.fakes.rest_site import KEY_TYPE, FakeSite, b64, new_key, reason, rest_site

ACTION_TYPE = "application/vnd.ibm.kms.key_action+json"
SEED_ACCEPT = "application/vnd.ibm.collection+json"

SOME_UUID = "0b000000-0000-4000-8000-00000000dead"

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with rest_site() as site:
        yield site


def made(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    """Return the only resource of an answer."""
    assert response.status_code == status, response.text
    document = response.json()
    assert document["metadata"]["collectionTotal"] == 1
    [resource] = document["resources"]
    found: dict[str, Any] = resource
    return found


# --- create and import ------------------------------------------------------------


def test_a_key_is_made_with_the_seeds_own_headers(site: FakeSite) -> None:
    response = site.send(
        "POST",
        "/keys",
        instance=None,
        headers={
            "icp-instance": site.instance,
            "content-type": KEY_TYPE,
            "correlation-id": "0a000000-0000-4000-8000-00000000c0de",
        },
        json=new_key(name="etcd", description="for tests", extractable=False),
    )

    key = made(response, 201)
    assert (key["name"], key["description"], key["state"]) == ("etcd", "for tests", 1)
    assert (key["extractable"], key["imported"], key["deleted"]) == (False, False, False)
    assert response.headers["correlation-id"] == "0a000000-0000-4000-8000-00000000c0de"


def test_create_answers_the_minimal_representation(site: FakeSite) -> None:
    key = made(site.send("POST", "/keys", json=new_key()), 201)

    assert not {"lastUpdateDate", "payload", "keyVersion", "creationDate"} & key.keys()


def test_create_answers_everything_to_who_prefers_it(site: FakeSite) -> None:
    response = site.send(
        "POST", "/keys", json=new_key(), headers={"prefer": "return=representation"}
    )

    key = made(response, 201)
    assert key["createdBy"] == "idp:Administrator"
    assert len(base64.b64decode(key["payload"])) == 32
    assert response.headers["preference-applied"] == "return=representation"


def test_a_root_keys_material_is_never_shown(site: FakeSite) -> None:
    body = new_key(extractable=False, payload=b64(b"k" * 32))
    created = site.send("POST", "/keys", json=body, headers={"prefer": "return=representation"})
    key = made(created, 201)

    got = site.send("GET", f"/keys/{key['id']}")

    assert "payload" not in key
    assert "payload" not in made(got)
    assert b64(b"k" * 32) not in created.text + got.text


@pytest.mark.parametrize("bits", [256, 384, 512])
@pytest.mark.parametrize("extractable", [True, False])
def test_keys_of_the_seeds_lengths_are_imported(
    site: FakeSite, bits: int, *, extractable: bool
) -> None:
    material = bytes(range(bits // 8))

    body = new_key(extractable=extractable, payload=b64(material))
    key = made(site.send("POST", "/keys", json=body), 201)
    got = made(site.send("GET", f"/keys/{key['id']}"))

    assert key["imported"] is True
    assert got["algorithmBitSize"] == bits
    assert got["algorithmMetadata"]["bitLength"] == str(bits)
    assert got.get("payload") == (b64(material) if extractable else None)


@pytest.mark.parametrize("size", [16, 24, 31, 33, 65])
def test_a_key_of_another_length_is_refused(site: FakeSite, size: int) -> None:
    refused = reason(site.send("POST", "/keys", json=new_key(payload=b64(b"k" * size))))

    assert (refused["status"], refused["code"]) == (400, "INVALID_FIELD_ERR")
    assert refused["target"] == {"type": "field", "name": "payload"}


def test_an_expiration_date_is_shown_without_its_fraction(site: FakeSite) -> None:
    body = new_key(expirationDate="2031-01-02T03:04:05.06Z")

    assert made(site.send("POST", "/keys", json=body), 201)["expirationDate"] == (
        "2031-01-02T03:04:05Z"
    )


def test_an_expiration_date_in_the_past_is_refused(site: FakeSite) -> None:
    refused = reason(
        site.send("POST", "/keys", json=new_key(expirationDate="2030-03-01T11:59:59Z"))
    )

    assert refused["target"]["name"] == "expirationDate"


def test_two_keys_may_have_one_name(site: FakeSite) -> None:
    ids = {made(site.send("POST", "/keys", json=new_key()), 201)["id"] for _ in range(2)}

    assert len(ids) == 2


@pytest.mark.parametrize(
    "content_type",
    [KEY_TYPE, "application/json", "application/json; charset=utf-8", None],
    ids=["vendor", "plain", "charset", "none"],
)
def test_a_body_may_be_declared_as_every_client_does(
    site: FakeSite, content_type: str | None
) -> None:
    declared = {} if content_type is None else {"content-type": content_type}

    response = site.send(
        "POST",
        "/keys",
        headers=declared,
        content=b'{"metadata":{"collectionType":"%b","collectionTotal":1},'
        b'"resources":[{"type":"%b","name":"go"}]}' % ((KEY_TYPE.encode(),) * 2),
    )

    assert response.status_code == 201


@pytest.mark.parametrize("prefer", ["return=minimal", "return=representation"])
def test_a_create_can_be_repeated_under_an_idempotency_key(site: FakeSite, prefer: str) -> None:
    def create(name: str) -> httpx.Response:
        headers = {"idempotency-key": "once", "prefer": prefer}
        return site.send("POST", "/keys", json=new_key(name=name), headers=headers)

    first, second, other = create("a key"), create("a key"), create("another key")

    assert made(first, 201)["id"] == made(second, 201)["id"]
    assert reason(other)["code"] == "IDEMPOTENCY_KEY_REUSED_ERR"
    assert other.status_code == 409
    assert site.send("HEAD", "/keys").headers["key-total"] == "1"


def test_one_idempotency_key_of_two_callers_names_two_requests(site: FakeSite) -> None:
    ids = {
        made(
            site.send(
                "POST",
                "/keys",
                json=new_key(),
                caller=caller,
                headers={"idempotency-key": "once"},
            ),
            201,
        )["id"]
        for caller in ("Administrator", "Editor")
    }

    assert len(ids) == 2


def test_a_malformed_idempotency_key_is_refused(site: FakeSite) -> None:
    refused = reason(
        site.send("POST", "/keys", json=new_key(), headers={"idempotency-key": "two words"})
    )

    assert (refused["code"], refused["target"]["name"]) == ("INVALID_HEADER_ERR", "Idempotency-Key")


# --- list and count -------------------------------------------------------------


def test_a_list_counts_its_page_and_all_keys(site: FakeSite) -> None:
    ids = sorted(site.root_key().id for _ in range(5))

    response = site.send("GET", "/keys", params={"limit": 2, "offset": 1})

    assert [key["id"] for key in response.json()["resources"]] == ids[1:3]
    assert response.json()["metadata"]["collectionTotal"] == 2
    assert response.headers.get_list("key-total") == ["5"]


def test_an_empty_list_is_no_error(site: FakeSite) -> None:
    response = site.send("GET", "/keys")

    assert response.json() == {
        "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 0},
        "resources": [],
    }
    assert response.headers["key-total"] == "0"


def test_a_list_never_shows_material(site: FakeSite) -> None:
    site.root_key(kind=KeyKind.STANDARD, material=b"secret material of 32 bytes long")

    response = site.send("GET", "/keys")

    assert "payload" not in response.text
    assert b64(b"secret material of 32 bytes long") not in response.text


def test_a_count_has_the_same_total_and_no_body(site: FakeSite) -> None:
    for _ in range(3):
        site.root_key()

    response = site.send("HEAD", "/keys", headers={"accept": SEED_ACCEPT})

    assert response.status_code == 200
    assert response.headers.get_list("key-total") == ["3"]
    assert (response.content, response.headers.get_list("content-length")) == (b"", ["0"])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", {"active", "suspended", "expired", "standard"}),
        ("state=", {"active", "suspended", "expired", "standard"}),
        ("state=1", {"active", "standard"}),
        ("state=2%2C3", {"suspended", "expired"}),
        ("state=5", {"deleted"}),
        ("state=0", set()),
        ("state=0,1,2,3,5", {"active", "suspended", "expired", "standard", "deleted"}),
        ("extractable=true", {"standard"}),
        ("extractable=false&state=1", {"active"}),
        ("extractable=&state=1&sort=name", {"active", "standard"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_list_and_a_count_take_the_same_filters(
    site: FakeSite, method: str, query: str, names: set[str]
) -> None:
    keys_in_every_state(site)

    response = site.send(method, f"/keys?{query}")

    assert response.headers["key-total"] == str(len(names))
    if method == "GET":
        assert {key["name"] for key in response.json()["resources"]} == names


# --- get --------------------------------------------------------------------------


def test_a_standard_key_is_got_with_its_payload(site: FakeSite) -> None:
    key = site.root_key(kind=KeyKind.STANDARD, material=b"k" * 32)

    assert made(site.send("GET", f"/keys/{key.id}"))["payload"] == b64(b"k" * 32)


def test_metadata_are_got_without_the_payload(site: FakeSite) -> None:
    key = site.root_key(kind=KeyKind.STANDARD, material=b"k" * 32)

    shown = made(site.send("GET", f"/keys/{key.id}/metadata"))

    assert shown["id"] == key.id
    assert "payload" not in shown


def test_a_key_id_may_be_written_in_capitals(site: FakeSite) -> None:
    key = site.root_key()

    assert made(site.send("GET", f"/keys/{key.id.upper()}"))["id"] == key.id


def test_a_deleted_key_is_got_as_a_tombstone(site: FakeSite) -> None:
    key = site.root_key(kind=KeyKind.STANDARD)
    site.send("DELETE", f"/keys/{key.id}")

    shown = made(site.send("GET", f"/keys/{key.id}"))

    assert (shown["state"], shown["deleted"], shown["deletedBy"]) == (5, True, "idp:Administrator")
    assert DATE.fullmatch(shown["deletionDate"])
    assert "payload" not in shown


def test_versions_are_listed_the_newest_first(site: FakeSite) -> None:
    key = site.root_key()
    for _ in range(2):
        site.rotate_later(key.id)

    response = site.send("GET", f"/keys/{key.id}/versions", params={"totalCount": "true"})
    page = site.send("GET", f"/keys/{key.id}/versions", params={"limit": 1, "offset": 1})

    document = response.json()
    versions = [version.id for version in site.core.keys.get(CALLER, key.id).versions]
    assert [version["id"] for version in document["resources"]] == versions[::-1]
    assert document["metadata"] == {
        "collectionType": "application/vnd.ibm.kms.key.version+json",
        "collectionTotal": 3,
        "totalCount": 3,
    }
    assert [version["id"] for version in page.json()["resources"]] == [versions[1]]
    assert "totalCount" not in page.json()["metadata"]


# --- content types -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, KEY_TYPE),
        ("*/*", KEY_TYPE),
        ("application/json", KEY_TYPE),
        ("application/json, text/plain, */*", KEY_TYPE),
        (SEED_ACCEPT, SEED_ACCEPT),
    ],
)
def test_a_collection_has_the_vendors_type_or_the_seeds(
    site: FakeSite, accept: str | None, content_type: str
) -> None:
    wanted = {} if accept is None else {"accept": accept}
    key = site.root_key()

    answers = [
        site.send("POST", "/keys", json=new_key(), headers=wanted),
        site.send("GET", "/keys", headers=wanted),
        site.send("GET", f"/keys/{key.id}", headers=wanted),
        site.send(
            "DELETE", f"/keys/{key.id}", headers={**wanted, "prefer": "return=representation"}
        ),
    ]

    assert {answer.headers["content-type"] for answer in answers} == {content_type}


@pytest.mark.parametrize("accept", [ACTION_TYPE, "application/json", "*/*", SEED_ACCEPT])
def test_an_action_has_its_own_type(site: FakeSite, accept: str) -> None:
    response = site.act("wrap", site.root_key().id, headers={"accept": accept})

    assert response.headers["content-type"] == ACTION_TYPE


# --- wrap, unwrap, rewrap -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/kms/api/v2", "/api/v2"])
@pytest.mark.parametrize("form", ["actions/wrap", "?action=wrap"])
def test_wrap_is_served_in_both_forms_under_both_prefixes(
    site: FakeSite, prefix: str, form: str
) -> None:
    path = f"{prefix}/keys/{site.root_key().id}{'' if form[0] == '?' else '/'}{form}"

    assert site.send("POST", path, json={}).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
def test_wrap_without_a_plaintext_makes_32_bytes(site: FakeSite, content: bytes) -> None:
    response = site.send("POST", f"/keys/{site.root_key().id}/actions/wrap", content=content)

    assert len(base64.b64decode(response.json()["plaintext"])) == 32


def test_what_was_wrapped_is_unwrapped(site: FakeSite) -> None:
    key = site.root_key()
    wrapped = site.act("wrap", key.id, {"plaintext": b64(b"data key"), "aad": ["a", "bc"]}).json()

    opened = site.act(
        "unwrap", key.id, {"ciphertext": wrapped["ciphertext"], "aad": ["a", "bc"]}
    ).json()

    assert "plaintext" not in wrapped
    assert opened.keys() == {"plaintext", "keyVersion"}
    assert base64.b64decode(opened["plaintext"]) == b"data key"
    assert wrapped["keyVersion"] == opened["keyVersion"]


def test_an_empty_aad_opens_what_was_wrapped_with_none(site: FakeSite) -> None:
    key = site.root_key()
    without = site.act("wrap", key.id, {"plaintext": b64(b"data key")}).json()["ciphertext"]

    assert site.act("unwrap", key.id, {"ciphertext": without, "aad": []}).status_code == 200
    assert site.act("unwrap", key.id, {"ciphertext": without, "aad": None}).status_code == 200
    assert site.act("unwrap", key.id, {"ciphertext": without, "aad": [""]}).status_code == 422


@pytest.mark.parametrize("size", [1, 4096])
def test_a_plaintext_has_up_to_4096_decoded_bytes(site: FakeSite, size: int) -> None:
    key = site.root_key()

    wrapped = site.act("wrap", key.id, {"plaintext": b64(b"p" * size)}).json()

    opened = site.act("unwrap", key.id, {"ciphertext": wrapped["ciphertext"]}).json()
    assert base64.b64decode(opened["plaintext"]) == b"p" * size


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"plaintext": b64(b"p" * 4097)}, "plaintext"),
        ({"plaintext": ""}, "plaintext"),
        ({"plaintext": "no base64!"}, "plaintext"),
        ({"aad": ["a"] * 127}, "aad"),
        ({"aad": ["a" * 256]}, "aad"),
        ({"aad": [None]}, "aad"),
    ],
    ids=["too long", "empty", "not base64", "too many", "too long text", "null"],
)
def test_a_wrap_out_of_bounds_names_its_field(
    site: FakeSite, body: dict[str, Any], field: str
) -> None:
    refused = reason(site.act("wrap", site.root_key().id, body))

    assert (refused["status"], refused["code"]) == (400, "INVALID_FIELD_ERR")
    assert refused["target"] == {"type": "field", "name": field}
    assert refused["message"].startswith(f"The field '{field}' must be: ")


def test_the_largest_aad_is_taken_in_its_longest_spelling(site: FakeSite) -> None:
    key = site.root_key()
    item = ("\\ud83d\\ude00" * 255).encode()
    aad = b'"aad":[' + b",".join(b'"' + item + b'"' for _ in range(126)) + b"]"

    wrapped = site.send(
        "POST",
        f"/keys/{key.id}/actions/wrap",
        content=b'{"plaintext":"' + b64(b"p" * 4096).encode() + b'",' + aad + b"}",
    )
    opened = site.act(
        "unwrap",
        key.id,
        {"ciphertext": wrapped.json()["ciphertext"], "aad": ["\U0001f600" * 255] * 126},
    )

    assert opened.status_code == 200


def test_after_a_rotation_unwrap_and_rewrap_give_a_new_ciphertext(site: FakeSite) -> None:
    key = site.root_key()
    old = site.wrapped(key.id, ["a"])
    site.act("rotate", key.id)

    opened = site.act("unwrap", key.id, {"ciphertext": old, "aad": ["a"]}).json()
    carried = site.act("rewrap", key.id, {"ciphertext": old, "aad": ["a"]}).json()

    assert base64.b64decode(opened["plaintext"]) == b"data key"
    assert "plaintext" not in carried
    for answer in (opened, carried):
        assert answer["keyVersion"]["id"] != answer["rewrappedKeyVersion"]["id"]
        again = site.act("unwrap", key.id, {"ciphertext": answer["ciphertext"], "aad": ["a"]})
        assert again.json()["keyVersion"]["id"] == answer["rewrappedKeyVersion"]["id"]
        assert again.json().keys() == {"plaintext", "keyVersion"}


# --- rotate, enable, disable ------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
@pytest.mark.parametrize("prefer", ["return=minimal", "return=representation"])
def test_rotate_answers_without_a_body_whatever_is_preferred(
    site: FakeSite, content: bytes, prefer: str
) -> None:
    response = site.send(
        "POST",
        f"/keys/{site.root_key().id}/actions/rotate",
        content=content,
        headers={"prefer": prefer},
    )

    assert (response.status_code, response.content) == (204, b"")


def test_an_imported_key_is_rotated_with_new_material(site: FakeSite) -> None:
    key = site.root_key(material=b"k" * 32)

    without = reason(site.act("rotate", key.id))
    given = site.act("rotate", key.id, {"payload": b64(b"n" * 48)})

    assert (without["status"], without["code"]) == (400, "KEY_PAYLOAD_REQ_ERR")
    assert given.status_code == 204
    assert made(site.send("GET", f"/keys/{key.id}"))["algorithmBitSize"] == 384


def test_a_generated_key_is_rotated_without_material(site: FakeSite) -> None:
    refused = reason(site.act("rotate", site.root_key().id, {"payload": b64(b"n" * 32)}))

    assert (refused["status"], refused["code"]) == (400, "INVALID_QUERY_PARAM_ERR")
    assert refused["message"].endswith("'payload' must be: provided only if key is imported")


def test_a_rotation_is_dated(site: FakeSite) -> None:
    key = site.root_key()
    before = made(site.send("GET", f"/keys/{key.id}"))

    site.rotate_later(key.id)

    after = made(site.send("GET", f"/keys/{key.id}"))
    assert "lastRotateDate" not in before
    assert after["lastRotateDate"] > before["creationDate"]
    assert after["lastUpdateDate"] == after["lastRotateDate"]
    assert after["keyVersion"]["id"] != before["keyVersion"]["id"]


def test_a_disabled_key_does_nothing_until_it_is_enabled(site: FakeSite) -> None:
    key = site.root_key()
    ciphertext = site.wrapped(key.id)

    disabled = site.act("disable", key.id)
    refused = [
        site.act("wrap", key.id),
        site.act("unwrap", key.id, {"ciphertext": ciphertext}),
        site.act("rewrap", key.id, {"ciphertext": ciphertext}),
        site.act("rotate", key.id),
    ]
    enabled = site.act("enable", key.id)

    assert (disabled.status_code, enabled.status_code) == (204, 204)
    assert {reason(answer)["code"] for answer in refused} == {"KEY_ACTION_INVALID_STATE_ERR"}
    assert {answer.status_code for answer in refused} == {409}
    assert site.act("unwrap", key.id, {"ciphertext": ciphertext}).status_code == 200


# --- states × actions ---------------------------------------------------------------------


@pytest.mark.parametrize("action", ["wrap", "unwrap", "rewrap", "rotate"])
@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("active", {"wrap": 200, "unwrap": 200, "rewrap": 200, "rotate": 204}),
        ("suspended", {"wrap": 409, "unwrap": 409, "rewrap": 409, "rotate": 409}),
        ("expired", {"wrap": 409, "unwrap": 200, "rewrap": 409, "rotate": 409}),
        ("deleted", {"wrap": 410, "unwrap": 410, "rewrap": 410, "rotate": 410}),
        ("standard", {"wrap": 400, "unwrap": 400, "rewrap": 400, "rotate": 400}),
    ],
)
def test_a_state_allows_what_the_contract_says(
    site: FakeSite, name: str, statuses: dict[str, int], action: str
) -> None:
    key_id, ciphertext = keys_in_every_state(site)[name]
    body = {} if action in ("wrap", "rotate") else {"ciphertext": ciphertext}

    assert site.act(action, key_id, body).status_code == statuses[action]


def test_an_expired_key_unwraps_without_a_new_ciphertext(site: FakeSite) -> None:
    key = site.root_key(expires_at=site.here.clock.now().replace(hour=13))
    old = site.wrapped(key.id)
    site.act("rotate", key.id)
    site.here.clock.advance(hours=2)

    assert site.act("unwrap", key.id, {"ciphertext": old}).json().keys() == {
        "plaintext",
        "keyVersion",
    }
    assert made(site.send("GET", f"/keys/{key.id}"))["state"] == 3


# --- delete -------------------------------------------------------------------------------


@pytest.mark.parametrize("force", ["", "?force=true", "?force=false"])
def test_delete_answers_without_a_body(site: FakeSite, force: str) -> None:
    response = site.send("DELETE", f"/keys/{site.root_key().id}{force}")

    assert (response.status_code, response.content) == (204, b"")


def test_delete_shows_the_tombstone_to_who_prefers_it(site: FakeSite) -> None:
    key = site.root_key(kind=KeyKind.STANDARD)

    shown = made(
        site.send("DELETE", f"/keys/{key.id}", headers={"prefer": "return=representation"})
    )

    assert (shown["state"], shown["deleted"]) == (5, True)
    assert "payload" not in shown


def test_a_key_is_deleted_once(site: FakeSite) -> None:
    key = site.root_key()
    site.send("DELETE", f"/keys/{key.id}")

    refused = reason(site.send("DELETE", f"/keys/{key.id}"))

    assert (refused["status"], refused["code"]) == (410, "KEY_DELETED_ERR")
    assert refused["errorMsg"] == (
        "Gone: Key could not be deleted. Please see `reasons` for more details."
    )


def test_a_dry_run_tells_what_would_be_lost_and_loses_nothing(site: FakeSite) -> None:
    key = site.root_key()
    ciphertext = site.wrapped(key.id)
    site.act("rotate", key.id)

    shown = made(site.send("DELETE", f"/keys/{key.id}?dryRun=true"))

    assert shown["deletion"]["dryRun"] is True
    assert shown["deletion"]["losses"]["versions"] == 2
    assert shown["deletion"]["losses"]["ciphertexts"] >= 1
    assert shown["state"] == 1
    assert site.act("unwrap", key.id, {"ciphertext": ciphertext}).status_code == 200


@pytest.mark.parametrize("query", ["", "?force=true", "?dryRun=true", "?dryRun=true&force=true"])
def test_a_key_that_a_provider_uses_is_kept_even_by_force(site: FakeSite, query: str) -> None:
    key = site.root_key()
    site.core.providers.bind(CALLER, "keyplane", key.id)

    refused = reason(site.send("DELETE", f"/keys/{key.id}{query}"))

    assert (refused["status"], refused["code"]) == (409, "PROTECTED_RESOURCE_ERR")
    assert "KMS provider keyplane" in refused["message"]
    assert made(site.send("GET", f"/keys/{key.id}"))["state"] == 1


@pytest.mark.parametrize("query", ["", "?dryRun=true"])
def test_a_dry_run_refuses_what_the_deletion_would(site: FakeSite, query: str) -> None:
    key = site.root_key()
    site.send("DELETE", f"/keys/{key.id}")

    assert site.send("DELETE", f"/keys/{key.id}{query}").status_code == 410
    assert site.send("DELETE", f"/keys/{new_uuid()}{query}").status_code == 404


# --- aliases --------------------------------------------------------------------------------


def test_an_alias_is_given_used_and_taken(site: FakeSite) -> None:
    key = site.root_key()

    given = made(site.send("POST", f"/keys/{key.id}/aliases/etcd"), 201)
    shown = made(site.send("GET", "/keys/etcd"))
    wrapped = site.act("wrap", "etcd")
    taken = site.send("DELETE", f"/keys/{key.id}/aliases/etcd")

    assert (given["keyId"], given["alias"]) == (key.id, "etcd")
    assert given["createdBy"] == "idp:Administrator"
    assert DATE.fullmatch(given["creationDate"])
    assert (shown["id"], shown["aliases"]) == (key.id, ["etcd"])
    assert wrapped.status_code == 200
    assert taken.status_code == 204
    assert reason(site.send("GET", "/keys/etcd"))["code"] == "KEY_NOT_FOUND_ERR"


def test_an_alias_names_one_key_of_an_instance(site: FakeSite) -> None:
    body = new_key(aliases=["etcd"], tags=["red"])
    first = made(site.send("POST", "/keys", json=body), 201)

    second = reason(site.send("POST", "/keys", json=body))
    elsewhere = site.send(
        "POST", "/keys", json=body, caller="other-Editor", instance=site.other_instance
    )

    assert (first["aliases"], first["tags"]) == (["etcd"], ["red"])
    assert (second["status"], second["code"]) == (409, "KEY_ALIAS_NOT_UNIQUE_ERR")
    assert elsewhere.status_code == 201


@pytest.mark.parametrize("alias", ["a", "a" * 91, "a.b", "ä", "a%20b", SOME_UUID])
def test_an_alias_of_another_form_is_refused(site: FakeSite, alias: str) -> None:
    refused = reason(site.send("POST", f"/keys/{site.root_key().id}/aliases/{alias}"))

    assert (refused["status"], refused["target"]["name"]) == (400, "alias")


def test_an_id_that_is_neither_uuid_nor_alias_is_refused(site: FakeSite) -> None:
    refused = reason(site.send("GET", "/keys/not.an.id"))

    assert (refused["status"], refused["target"]) == (400, {"type": "field", "name": "id"})


# --- helpers ----------------------------------------------------------------------------------


def keys_in_every_state(site: FakeSite) -> dict[str, tuple[KeyId, str]]:
    """Make a key in every state that there is, each with a ciphertext where it has one."""
    soon = site.here.clock.now().replace(hour=13)
    keys = {
        "active": site.root_key("active"),
        "suspended": site.root_key("suspended"),
        "expired": site.root_key("expired", expires_at=soon),
        "deleted": site.root_key("deleted"),
    }
    made_of = {name: (key.id, site.wrapped(key.id)) for name, key in keys.items()}
    standard = site.root_key("standard", kind=KeyKind.STANDARD)
    site.act("disable", keys["suspended"].id)
    site.send("DELETE", f"/keys/{keys['deleted'].id}")
    site.here.clock.advance(hours=2)
    return {**made_of, "standard": (standard.id, made_of["active"][1])}
