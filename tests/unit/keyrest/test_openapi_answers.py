"""Every kind of answer that the face gives is in the document: status, type, headers and body.

Schemathesis looks for answers that are not. Here are those that it does not meet by
chance, because somebody must have prepared them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from keycore.errors import IssuerUnavailableError
from keycore.settings import RestSettings, Settings
from keyrest.openapi.document import document
from tests.fakes.rest_site import FakeSite, new_key, rest_site
from tests.unit.keyrest.documented import closed, component, fits, operations, resolved

UNKNOWN = "0b000000-0000-4000-8000-00000000dead"
COLLECTION = {"accept": "application/vnd.ibm.collection+json"}
WHOLE = {"prefer": "return=representation"}

Send = Callable[[FakeSite], httpx.Response]


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with rest_site() as site:
        yield site


def unlike(response: httpx.Response, described: dict[str, Any]) -> list[str]:
    """Return in what an answer differs from a response of the document."""
    described = resolved(described["$ref"]) if "$ref" in described else described
    content_type = response.headers.get("content-type")
    media_types = described.get("content", {None: None})
    found = [] if content_type in media_types else [f"type {content_type}"]
    if media_type := media_types.get(content_type):
        whole = closed(document())
        found += [] if fits(response.json(), media_type["schema"], whole) else ["body"]
    for name, entry in described["headers"].items():
        header = resolved(entry["$ref"]) if "$ref" in entry else entry
        given: Any = response.headers.get(name)
        if given is None:
            found += [f"no {name}"] if header.get("required") else []
        elif not fits(int(given) if given.isdigit() else given, header["schema"]):
            found.append(f"{name} {given}")
    return found


def create(**parts: Any) -> Send:
    headers = parts.pop("headers", None)
    return lambda site: site.send("POST", "/keys", json=new_key(**parts), headers=headers)


def of_key(method: str, path: str = "", **parts: Any) -> Send:
    """Return a request about a fresh root key."""
    return lambda site: site.send(method, f"/keys/{site.root_key().id}{path}", **parts)


def of_deleted(method: str, path: str = "", **parts: Any) -> Send:
    def send(site: FakeSite) -> httpx.Response:
        key_id = site.root_key().id
        assert site.send("DELETE", f"/keys/{key_id}").status_code == 204
        return site.send(method, f"/keys/{key_id}{path}", **parts)

    return send


def older_ciphertext(action: str) -> Send:
    def send(site: FakeSite) -> httpx.Response:
        key_id = site.root_key().id
        body = {"ciphertext": site.wrapped(key_id)}
        site.rotate_later(key_id)
        return site.act(action, key_id, body)

    return send


def suspended(action: str) -> Send:
    def send(site: FakeSite) -> httpx.Response:
        key_id = site.root_key().id
        site.act("disable", key_id)
        return site.act(action, key_id)

    return send


def taken_alias(site: FakeSite) -> httpx.Response:
    site.root_key(aliases=("taken",))
    return site.send("POST", f"/keys/{site.root_key().id}/aliases/taken")


def reused_idempotency_key(site: FakeSite) -> httpx.Response:
    headers = {"idempotency-key": "once"}
    site.send("POST", "/keys", json=new_key(name="one"), headers=headers)
    return site.send("POST", "/keys", json=new_key(name="two"), headers=headers)


def foreign_ciphertext(action: str) -> Send:
    def send(site: FakeSite) -> httpx.Response:
        return site.act(
            action, site.root_key().id, {"ciphertext": site.wrapped(site.root_key().id)}
        )

    return send


def broken(error: Exception) -> Send:
    def send(site: FakeSite) -> httpx.Response:
        site.callers.broken = error
        return site.send("GET", "/keys")

    return send


@pytest.mark.parametrize(
    ("method", "path", "status", "send"),
    [
        ("POST", "/keys", 201, create(extractable=False)),
        ("POST", "/keys", 201, create(headers=WHOLE, description="words", tags=["tag"])),
        ("POST", "/keys", 201, create(extractable=False, aliases=["etcd"], headers=COLLECTION)),
        ("POST", "/keys", 201, create(extractable=False, expirationDate="2031-01-02T03:04:05Z")),
        ("POST", "/keys", 409, reused_idempotency_key),
        ("POST", "/keys", 413, create(name="x" * 2**20)),
        ("GET", "/keys", 200, lambda site: site.root_key() and site.send("GET", "/keys")),
        ("GET", "/keys", 401, lambda site: site.send("GET", "/keys", caller=None)),
        ("GET", "/keys", 403, lambda site: site.send("GET", "/keys", caller="Nobody")),
        ("GET", "/keys", 406, lambda site: site.send("GET", "/keys", headers={"accept": "a/b"})),
        ("GET", "/keys", 500, broken(RuntimeError("words that nobody may see"))),
        ("GET", "/keys", 503, broken(IssuerUnavailableError("no answer"))),
        ("HEAD", "/keys", 200, lambda site: site.send("HEAD", "/keys")),
        ("HEAD", "/keys", 401, lambda site: site.send("HEAD", "/keys", caller=None)),
        ("GET", "/keys/{id}", 200, of_key("GET")),
        ("GET", "/keys/{id}", 200, of_deleted("GET")),
        ("GET", "/keys/{id}", 404, lambda site: site.send("GET", f"/keys/{UNKNOWN}")),
        ("DELETE", "/keys/{id}", 200, of_key("DELETE", headers=WHOLE)),
        ("DELETE", "/keys/{id}", 200, of_key("DELETE", "?dryRun=true")),
        ("DELETE", "/keys/{id}", 204, of_key("DELETE")),
        ("DELETE", "/keys/{id}", 410, of_deleted("DELETE")),
        ("POST", "/keys/{id}", 200, of_key("POST", "?action=wrap")),
        ("POST", "/keys/{id}", 204, of_key("POST", "?action=rotate", content=b"null")),
        ("POST", "/keys/{id}", 400, of_key("POST", "?action=wrap", json={"ciphertext": ""})),
        ("GET", "/keys/{id}/metadata", 200, of_key("GET", "/metadata")),
        ("GET", "/keys/{id}/versions", 200, of_key("GET", "/versions?totalCount=true")),
        ("POST", "/keys/{id}/actions/wrap", 200, of_key("POST", "/actions/wrap")),
        ("POST", "/keys/{id}/actions/wrap", 409, suspended("wrap")),
        ("POST", "/keys/{id}/actions/wrap", 410, of_deleted("POST", "/actions/wrap")),
        (
            *("POST", "/keys/{id}/actions/wrap", 415),
            of_key("POST", "/actions/wrap", content=b"a", headers={"content-type": "text/plain"}),
        ),
        ("POST", "/keys/{id}/actions/unwrap", 200, older_ciphertext("unwrap")),
        ("POST", "/keys/{id}/actions/unwrap", 422, foreign_ciphertext("unwrap")),
        ("POST", "/keys/{id}/actions/rewrap", 200, older_ciphertext("rewrap")),
        ("POST", "/keys/{id}/actions/rewrap", 422, foreign_ciphertext("rewrap")),
        ("POST", "/keys/{id}/actions/rotate", 204, of_key("POST", "/actions/rotate")),
        ("POST", "/keys/{id}/actions/rotate", 409, suspended("rotate")),
        ("POST", "/keys/{id}/actions/enable", 204, suspended("enable")),
        ("POST", "/keys/{id}/actions/disable", 204, of_key("POST", "/actions/disable")),
        ("POST", "/keys/{id}/aliases/{alias}", 201, of_key("POST", "/aliases/etcd")),
        ("POST", "/keys/{id}/aliases/{alias}", 409, taken_alias),
        ("DELETE", "/keys/{id}/aliases/{alias}", 204, of_key("DELETE", "/aliases/etcd")),
        ("DELETE", "/keys/{id}/aliases/{alias}", 410, of_deleted("DELETE", "/aliases/etcd")),
        ("GET", "/livez", 200, lambda site: site.send("GET", "/livez", caller=None)),
        ("GET", "/readyz", 200, lambda site: site.send("GET", "/readyz", caller=None)),
    ],
)
def test_an_answer_is_as_the_document_describes_it(
    site: FakeSite, method: str, path: str, status: int, send: Send
) -> None:
    response = send(site)

    assert response.status_code == status
    assert not unlike(response, operations()[method, path]["responses"][str(status)])


def test_an_unready_service_is_described(site: FakeSite) -> None:
    site.here.token.lost = True

    response = site.send("GET", "/readyz", caller=None)

    assert response.status_code == 503
    assert not unlike(response, operations()["GET", "/readyz"]["responses"]["503"])


def test_a_throttled_caller_meets_what_is_described() -> None:
    settings = Settings(rest=RestSettings(requests_per_second=0.001))
    with rest_site(settings=settings) as site:
        site.send("GET", "/keys")
        response = site.send("GET", "/keys")

    assert not unlike(response, operations()["GET", "/keys"]["responses"]["429"])


def test_a_path_served_with_other_methods_answers_as_described(site: FakeSite) -> None:
    response = site.send("PATCH", "/keys")

    assert not unlike(response, component("responses", "Error405"))
