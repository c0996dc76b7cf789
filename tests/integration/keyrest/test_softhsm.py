"""The whole application on real tokens of both kinds and a real store."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import wire
from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.service.records import Records
from keycore.settings import Settings
from tests.fakes.memory_audit import MemoryAuditLog
from tests.fakes.rest_site import RestSite, new_key, open_site


@pytest.fixture(params=["softhsm", "opencryptoki"])
def site(request: pytest.FixtureRequest, sqlite_store: SqlStore) -> Iterator[RestSite]:
    """The REST face on a token and SQLite."""
    settings: Settings = request.getfixturevalue(f"{request.param}_settings")
    token: Pkcs11Token = request.getfixturevalue(f"{request.param}_token")
    clock, audit = SystemClock(), MemoryAuditLog()
    instance = Instance(InstanceId(new_uuid()), "default", None, clock.now())
    with Records(sqlite_store, token).writing() as unit:
        unit.save_instance(instance)
        unit.save_installation(Installation(new_uuid(), request.param, "0", clock.now()))
    core = wire(settings, sqlite_store, token, audit, clock)
    with open_site(core, instance.id, audit) as site:
        yield site


def test_a_key_lives_from_its_creation_to_its_tombstone(site: RestSite) -> None:
    created = site.send("POST", "/keys", json=new_key(extractable=False, aliases=["etcd"]))
    key = created.json()["resources"][0]["id"]
    made = site.act("wrap", "etcd", {"aad": ["a"]}).json()
    rotated = site.act("rotate", key)
    opened = site.act("unwrap", key, {"ciphertext": made["ciphertext"], "aad": ["a"]}).json()
    again = site.act("unwrap", key, {"ciphertext": opened["ciphertext"], "aad": ["a"]}).json()
    wrong = site.act("unwrap", key, {"ciphertext": made["ciphertext"], "aad": ["b"]})
    counted = site.send("HEAD", "/keys")
    deleted = site.send("DELETE", f"/keys/{key}", headers={"prefer": "return=representation"})
    gone = site.act("unwrap", key, {"ciphertext": made["ciphertext"], "aad": ["a"]})
    tombstone = site.send("GET", f"/keys/{key}").json()["resources"][0]

    assert (created.status_code, rotated.status_code) == (201, 204)
    assert opened["plaintext"] == again["plaintext"] == made["plaintext"]
    assert opened["rewrappedKeyVersion"]["id"] == again["keyVersion"]["id"]
    assert wrong.status_code == 422
    assert counted.headers["key-total"] == "1"
    assert (deleted.status_code, gone.status_code, tombstone["state"]) == (200, 410, 5)


def test_a_key_tells_the_mode_that_its_token_uses(site: RestSite) -> None:
    key = site.send("POST", "/keys", json=new_key(extractable=False)).json()["resources"][0]

    shown = site.send("GET", f"/keys/{key['id']}").json()["resources"][0]
    suite = base64.b64decode(site.wrapped(key["id"]))[1]

    assert shown["algorithmMode"] == {1: "GCM", 2: "CBC_PAD"}[suite]
    assert shown["algorithmMetadata"]["mode"] == shown["algorithmMode"]


@pytest.mark.parametrize("bits", [256, 384, 512])
def test_an_imported_key_wraps_and_a_standard_key_is_handed_out(site: RestSite, bits: int) -> None:
    material = base64.b64encode(bytes(range(bits // 8))).decode()

    root, standard = (
        site.send("POST", "/keys", json=new_key(extractable=extractable, payload=material))
        for extractable in (False, True)
    )
    root_id, standard_id = (answer.json()["resources"][0]["id"] for answer in (root, standard))
    ciphertext = site.wrapped(root_id)

    opened = site.act("unwrap", root_id, {"ciphertext": ciphertext}).json()
    payload = site.send("GET", f"/keys/{standard_id}").json()["resources"][0]["payload"]
    assert base64.b64decode(opened["plaintext"]) == b"data key"
    assert payload == material


def test_the_token_is_proven_for_a_probe(site: RestSite) -> None:
    response = site.send("GET", "/readyz", caller=None)

    assert response.json()["checks"]["token"] == "ok"
