"""One audit line for each request, and no secret in any line, log or foreign answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from keycore.domain.keys import KeyKind
from tests.fakes.rest_site import FakeSite, b64, new_key, rest_site

SOME_UUID = "0b000000-0000-4000-8000-00000000dead"

OPERATIONS = {
    "create": ("POST", "/keys", "key.create"),
    "import": ("POST", "/keys", "key.import"),
    "list": ("GET", "/keys", "key.list"),
    "count": ("HEAD", "/keys", "key.count"),
    "get": ("GET", "/keys/{}", "key.get"),
    "metadata": ("GET", "/keys/{}/metadata", "key.get"),
    "versions": ("GET", "/keys/{}/versions", "key.get"),
    "wrap": ("POST", "/keys/{}/actions/wrap", "key.wrap"),
    "wrap by query": ("POST", "/keys/{}?action=wrap", "key.wrap"),
    "unwrap": ("POST", "/keys/{}/actions/unwrap", "key.unwrap"),
    "rewrap": ("POST", "/keys/{}/actions/rewrap", "key.rewrap"),
    "rotate": ("POST", "/keys/{}/actions/rotate", "key.rotate"),
    "disable": ("POST", "/keys/{}/actions/disable", "key.suspend"),
    "enable": ("POST", "/keys/{}/actions/enable", "key.resume"),
    "add alias": ("POST", "/keys/{}/aliases/etcd", "key.add_alias"),
    "remove alias": ("DELETE", "/keys/{}/aliases/etcd", "key.remove_alias"),
    "dry run": ("DELETE", "/keys/{}?dryRun=true", "key.delete_preview"),
    "delete": ("DELETE", "/keys/{}", "key.delete"),
}

SECRETS = {
    "payload": b"secret payload of thirty-two by.",
    "rotated": b"another payload of thirty-two b.",
    "plaintext": b"secret data key, sixteen or more",
}


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with rest_site() as site:
        yield site


def perform(site: FakeSite, operation: str, key: str, caller: str | None) -> httpx.Response:
    """Perform an operation, with a body that it takes."""
    method, path, _ = OPERATIONS[operation]
    bodies: dict[str, Any] = {
        "create": new_key(),
        "import": new_key(payload=b64(b"k" * 32)),
        "unwrap": {"ciphertext": "AAAA"},
        "rewrap": {"ciphertext": "AAAA"},
    }
    body = {"json": bodies[operation]} if operation in bodies else {}
    return site.send(
        method,
        path.format(key),
        caller=caller,
        headers={"correlation-id": "trace-1"},
        **body,
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("exists", [True, False], ids=["known key", "unknown key"])
def test_an_operation_leaves_one_line_however_it_ends(
    site: FakeSite, operation: str, *, exists: bool
) -> None:
    key = site.root_key().id if exists else SOME_UUID
    site.audited()

    perform(site, operation, key, "Administrator")

    [event] = site.audited()
    assert event.operation == OPERATIONS[operation][2]
    assert (event.face, event.actor) == ("rest", "idp:Administrator")
    assert event.correlation_id == "trace-1"
    assert event.details["instance"] == site.instance
    if "{}" in OPERATIONS[operation][1]:
        assert event.details["key"] == key


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("caller", "outcome"), [(None, "unauthenticated"), ("Nobody", "access_denied")]
)
def test_a_refused_operation_leaves_one_line_too(
    site: FakeSite, operation: str, caller: str | None, outcome: str
) -> None:
    perform(site, operation, SOME_UUID, caller)

    [event] = site.audited()
    assert event.outcome == outcome
    assert event.correlation_id == "trace-1"


@pytest.mark.parametrize("part", ["token", "store"])
def test_a_failed_use_case_leaves_one_line(site: FakeSite, part: str) -> None:
    key = site.root_key().id
    site.wrapped(key)
    site.audited()
    getattr(site.here, part).lost = True
    site.here.clock.advance(seconds=1)

    site.act("wrap", key)

    [event] = site.audited()
    assert event.outcome == f"{part}_unavailable"


def test_a_key_remembers_who_made_it_as_the_audit_does(site: FakeSite) -> None:
    created = site.send("POST", "/keys", json=new_key(), caller="Editor")
    [event] = site.audited()

    shown = site.send("GET", f"/keys/{created.json()['resources'][0]['id']}").json()

    assert shown["resources"][0]["createdBy"] == event.actor == "idp:Editor"


def test_no_secret_is_in_a_line_a_log_or_an_answer_that_is_not_for_it(
    site: FakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), capture_logs() as logs:
        answers = use_every_secret(site)

    told = "\n".join(
        [
            *(str(event) for event in site.audited()),
            *(str(entry) for entry in logs),
            *(record.getMessage() for record in caplog.records),
            *(answer.text + str(answer.headers) for answer in answers),
        ]
    )
    for name, secret in SECRETS.items():
        assert str(secret)[2:-1] not in told, name
        assert b64(secret) not in told, name
    assert "secret-aad" not in told
    assert "Bearer" not in told.replace("'www-authenticate': 'Bearer'", "")
    assert "forged.credential" not in told


def use_every_secret(site: FakeSite) -> list[httpx.Response]:
    """Send every secret in right and in wrong ways; return the answers that may show none."""
    root = site.root_key().id
    imported = site.root_key(material=SECRETS["payload"]).id
    standard = site.root_key(kind=KeyKind.STANDARD, material=SECRETS["payload"]).id
    plaintext = {"plaintext": b64(SECRETS["plaintext"]), "aad": ["secret-aad"]}
    wrapped = site.act("wrap", root, plaintext)
    opened = {"ciphertext": wrapped.json()["ciphertext"], "aad": ["secret-aad"]}
    # These two are what the secrets are for.
    assert site.act("unwrap", root, opened).json()["plaintext"] == plaintext["plaintext"]
    assert "payload" in site.send("GET", f"/keys/{standard}").json()["resources"][0]
    return [
        wrapped,
        site.act("rewrap", root, opened),
        site.act("wrap", standard, plaintext),
        site.act("wrap", SOME_UUID, plaintext),
        site.act("wrap", root, plaintext, caller="Nobody"),
        site.act("wrap", root, plaintext, caller="forged.credential"),
        site.act("unwrap", root, {**opened, "aad": ["secret-aad", "more"]}),
        site.act("unwrap", root, {**opened, "plaintext": plaintext["plaintext"]}),
        site.act("wrap", root, {**plaintext, "unknown": plaintext["plaintext"]}),
        site.act("wrap", root, [plaintext]),
        site.send("POST", f"/keys/{root}/actions/wrap", content=str(plaintext).encode()),
        site.act("rotate", root, {"payload": b64(SECRETS["rotated"])}),
        site.act("rotate", imported, {"payload": b64(SECRETS["rotated"]) + "!"}),
        site.act("rotate", imported, {"payload": b64(SECRETS["rotated"])}),
        site.send("POST", "/keys", json=new_key(payload=b64(SECRETS["payload"]))),
        site.send("POST", "/keys", json=new_key(payload=b64(SECRETS["payload"] + b"x"))),
        site.send("POST", "/keys", json=new_key(payload=b64(SECRETS["payload"]), oops=1)),
        site.send("GET", "/keys"),
        site.send("GET", f"/keys/{standard}/metadata"),
        site.send("GET", f"/keys/{imported}"),
        site.send("DELETE", f"/keys/{standard}", headers={"prefer": "return=representation"}),
        site.send("GET", f"/keys/{standard}"),
    ]
